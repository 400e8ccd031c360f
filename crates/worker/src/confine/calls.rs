//! The system calls that a sandbox refuses, whatever a process's user may do: what Landlock does not know (modes, times,
//! sockets), what would open it again (namespaces, mounts, handles of files), and what reaches into the kernel or into
//! other processes.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Sandbox;

/// Refused with EPERM.
const NEVER: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Mounts, namespaces, roots.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Files without a path.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Calls made by the kernel in our name, past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The kernel itself.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_vhangup,
    // Its keys, its clock, its name.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Refused with EPERM where only one processor family has them.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[];

/// Change modes, owners, times and attributes.
const METADATA: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_utimensat,
    FCHMODAT2,
    SETXATTRAT,
    REMOVEXATTRAT,
    FILE_SETATTR,
];
/// Numbers that all processor families share and libc does not have everywhere.
const FCHMODAT2: c_long = 452;
const SETXATTRAT: c_long = 463;
const REMOVEXATTRAT: c_long = 466;
const FILE_SETATTR: c_long = 469;

#[cfg(target_arch = "x86_64")]
const METADATA_HERE: &[c_long] =
    &[libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat];
#[cfg(not(target_arch = "x86_64"))]
const METADATA_HERE: &[c_long] = &[];

/// Control calls that change a file through a descriptor that only reads: FS_IOC_SETFLAGS in both widths,
/// FS_IOC_FSSETXATTR, FS_IOC_SETVERSION in both widths.
const METADATA_CONTROLS: [u32; 5] = [0x4008_6602, 0x4004_6602, 0x401c_5820, 0x4008_7602, 0x4004_7602];
/// Control calls that nobody in a sandbox needs: FIFREEZE, FITHAW, FITRIM, TIOCSTI, TIOCLINUX.
const CONTROLS: [u32; 5] = [0xc004_5877, 0xc004_5878, 0xc018_5879, 0x5412, 0x541c];
/// Each makes a namespace: time, mounts, control groups, host name, System V objects, users, processes, network.
const NAMESPACES: [u32; 8] =
    [0x80, 0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// The calls of the x32 family: an ordinary number with this bit, and these of its own (ptrace, kexec_load,
/// process_vm_readv, process_vm_writev).
#[cfg(target_arch = "x86_64")]
const X32: (c_long, [c_long; 4]) = (0x4000_0000, [521, 528, 539, 540]);

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Sets the filters. `abi` is that of the Landlock that is in force.
pub(super) fn refuse(sandbox: &Sandbox, abi: i32) -> Result<(), String> {
    for filter in filters(sandbox, abi).map_err(|error| error.to_string())? {
        seccompiler::apply_filter(&filter).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn filters(sandbox: &Sandbox, abi: i32) -> Result<Vec<BpfProgram>, BackendError> {
    let mut refused = Rules::new();
    for &call in NEVER.iter().chain(NEVER_HERE) {
        refused.insert(call, Vec::new());
    }
    let mut controls = CONTROLS.to_vec();
    if !sandbox.metadata {
        for &call in METADATA.iter().chain(METADATA_HERE) {
            refused.insert(call, Vec::new());
        }
        controls.extend(METADATA_CONTROLS);
    }
    refused.insert(libc::SYS_ioctl, controls.iter().map(|&number| equal(1, number)).collect::<Result<_, _>>()?);
    refused.insert(libc::SYS_clone, NAMESPACES.iter().map(|&flag| masked(0, flag, flag)).collect::<Result<_, _>>()?);
    // Limits of other processes: the host's are among them.
    refused.insert(libc::SYS_prlimit64, vec![rule(0, SeccompCmpOp::Ne, 0)?]);

    // Its flags lie in memory, where a filter cannot look: libraries that hear that it is not there use clone.
    let mut absent = Rules::from([(libc::SYS_clone3, Vec::new())]);
    if abi < 3 {
        // This Landlock does not know truncation: what could do it without opening a file for writing.
        refused.insert(libc::SYS_truncate, Vec::new());
        let (cut, read_only) = ((libc::O_ACCMODE | libc::O_TRUNC).cast_unsigned(), libc::O_TRUNC.cast_unsigned());
        refused.insert(libc::SYS_openat, vec![masked(2, cut, read_only)?]);
        #[cfg(target_arch = "x86_64")]
        refused.insert(libc::SYS_open, vec![masked(1, cut, read_only)?]);
        absent.insert(libc::SYS_openat2, Vec::new());
    }
    let mut filters = vec![(refused, libc::EPERM), (absent, libc::ENOSYS)];
    if sandbox.no_network {
        let not_unix = || Ok(vec![rule(0, SeccompCmpOp::Ne, u64::from(libc::AF_UNIX.cast_unsigned()))?]);
        let sockets = Rules::from([(libc::SYS_socket, not_unix()?), (libc::SYS_socketpair, not_unix()?)]);
        // As if the host had no network: what only asks whether it has (su, for the kernel's audit) goes on without.
        filters.push((sockets, libc::EAFNOSUPPORT));
    }
    filters.into_iter().map(|(rules, errno)| program(rules, errno)).collect()
}

fn program(mut rules: Rules, errno: i32) -> Result<BpfProgram, BackendError> {
    #[cfg(target_arch = "x86_64")]
    {
        let (bit, own) = X32;
        let twins: Vec<_> = rules.iter().map(|(call, rules)| (call | bit, rules.clone())).collect();
        rules.extend(twins);
        if errno == libc::EPERM {
            rules.extend(own.map(|call| (call | bit, Vec::new())));
        }
    }
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let action = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)?.try_into()
}

fn rule(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)?])
}

fn equal(argument: u8, value: u32) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::Eq, value.into())
}

fn masked(argument: u8, mask: u32, value: u32) -> Result<SeccompRule, BackendError> {
    rule(argument, SeccompCmpOp::MaskedEq(mask.into()), value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_of_every_sandbox_can_be_built() {
        for (no_network, metadata) in [(false, false), (false, true), (true, false), (true, true)] {
            for abi in [1, 2, 3, 7] {
                let sandbox = Sandbox { no_network, metadata, ..Sandbox::default() };
                let built = filters(&sandbox, abi).unwrap();
                assert_eq!(built.len(), if no_network { 3 } else { 2 });
                // The kernel takes at most 4096 instructions.
                assert!(built.iter().all(|program| !program.is_empty() && program.len() < 4096));
            }
        }
    }
}
