//! The constants of the `bareosfd` module (reference 2.1), by the dictionaries in which they are also found (2.2).

/// bRC_*: what a callback answers.
pub mod rc {
    #![allow(missing_docs)]
    pub const OK: i64 = 0;
    pub const STOP: i64 = 1;
    pub const ERROR: i64 = 2;
    pub const MORE: i64 = 3;
    pub const TERM: i64 = 4;
    pub const SEEN: i64 = 5;
    pub const CORE: i64 = 6;
    pub const SKIP: i64 = 7;
}

/// CF_*: what create_file did.
pub mod cf {
    #![allow(missing_docs)]
    pub const SKIP: i64 = 1;
    pub const ERROR: i64 = 2;
    pub const CREATED: i64 = 4;
    pub const CORE: i64 = 5;
}

/// FT_*: file types.
pub mod ft {
    #![allow(missing_docs)]
    pub const LNKSAVED: i32 = 1;
    pub const REGE: i32 = 2;
    pub const REG: i32 = 3;
    pub const LNK: i32 = 4;
    pub const DIREND: i32 = 5;
    pub const SPEC: i32 = 6;
    pub const NOACCESS: i32 = 7;
    pub const NOFOLLOW: i32 = 8;
    pub const NOSTAT: i32 = 9;
    pub const NOCHG: i32 = 10;
    pub const DIRNOCHG: i32 = 11;
    pub const ISARCH: i32 = 12;
    pub const NORECURSE: i32 = 13;
    pub const NOFSCHG: i32 = 14;
    pub const NOOPEN: i32 = 15;
    pub const RAW: i32 = 16;
    pub const FIFO: i32 = 17;
    pub const DIRBEGIN: i32 = 18;
    pub const INVALIDFS: i32 = 19;
    pub const INVALIDDT: i32 = 20;
    pub const REPARSE: i32 = 21;
    pub const DELETED: i32 = 23;
    pub const RESTORE_FIRST: i32 = 25;
    pub const JUNCTION: i32 = 26;
    pub const PLUGIN_CONFIG: i32 = 27;
    pub const PLUGIN_CONFIG_FILLED: i32 = 28;
}

/// IO_*: functions of plugin_io.
pub mod io {
    #![allow(missing_docs)]
    pub const OPEN: i64 = 1;
    pub const READ: i64 = 2;
    pub const WRITE: i64 = 3;
    pub const CLOSE: i64 = 4;
    pub const SEEK: i64 = 5;
    /// `status` after IO_OPEN: the core reads or writes the descriptor itself.
    pub const DO_IN_CORE: i64 = 1;
}

/// M_*: classes of job messages.
pub mod message {
    #![allow(missing_docs)]
    pub const ABORT: i32 = 1;
    pub const DEBUG: i32 = 2;
    pub const FATAL: i32 = 3;
    pub const ERROR: i32 = 4;
    pub const WARNING: i32 = 5;
    pub const INFO: i32 = 6;
    pub const NOTSAVED: i32 = 8;
    pub const SKIPPED: i32 = 9;
    pub const ERROR_TERM: i32 = 11;
    pub const VOLMGMT: i32 = 16;
}

/// bVar*: numbers of GetValue and SetValue.
pub mod var {
    #![allow(missing_docs)]
    pub const JOB_ID: i32 = 1;
    pub const FD_NAME: i32 = 2;
    pub const LEVEL: i32 = 3;
    pub const TYPE: i32 = 4;
    pub const CLIENT: i32 = 5;
    pub const JOB_NAME: i32 = 6;
    pub const JOB_STATUS: i32 = 7;
    pub const SINCE_TIME: i32 = 8;
    pub const ACCURATE: i32 = 9;
    pub const FILE_SEEN: i32 = 10;
    pub const WORKING_DIR: i32 = 12;
    pub const WHERE: i32 = 13;
    pub const EXE_PATH: i32 = 15;
    pub const VERSION: i32 = 16;
    pub const PREV_JOB_NAME: i32 = 18;
    pub const PREFIX_LINKS: i32 = 19;
    pub const CHECK_CHANGES: i32 = 20;
    pub const USED_CONFIG: i32 = 21;
    pub const ACCURATE_OPTIONS: i32 = 23;
}

/// bEvent*: events of handle_plugin_event.
pub mod event {
    #![allow(missing_docs)]
    pub const JOB_END: u8 = 2;
    pub const START_BACKUP_JOB: u8 = 3;
    pub const END_BACKUP_JOB: u8 = 4;
    pub const START_RESTORE_JOB: u8 = 5;
    pub const END_RESTORE_JOB: u8 = 6;
    pub const BACKUP_COMMAND: u8 = 9;
    pub const RESTORE_COMMAND: u8 = 10;
    pub const ESTIMATE_COMMAND: u8 = 11;
    pub const CANCEL_COMMAND: u8 = 14;
    pub const RESTORE_OBJECT: u8 = 15;
    pub const END_FILE_SET: u8 = 16;
    pub const PLUGIN_COMMAND: u8 = 17;
    pub const HANDLE_BACKUP_FILE: u8 = 19;
    pub const NEW_PLUGIN_OPTIONS: u8 = 20;
    /// Registered for every plugin from the start (reference 4.9).
    pub const DEFAULTS: [u8; 9] = [12, 13, 20, 17, 1, 10, 11, 9, 15];
    /// Those that carry a definition or an object and do not go through handle_plugin_event.
    pub const COMMANDS: [u8; 6] = [9, 10, 11, 15, 17, 20];
    pub const LAST: u8 = 31;
}

/// Bits of `SavePacket.flags` (reference 2.3).
pub mod option_bit {
    #![allow(missing_docs)]
    pub const SPARSE: u32 = 5;
    pub const MTIME_ONLY: u32 = 11;
    pub const ACL: u32 = 14;
    pub const NO_HARD_LINKS: u32 = 15;
    pub const NO_ATIME: u32 = 22;
    pub const XATTR: u32 = 27;
    pub const DELTA: u32 = 28;
    pub const OFFSETS: u32 = 30;

    /// Whether a bit is on.
    #[must_use]
    pub fn is_on(flags: [u8; 5], bit: u32) -> bool {
        flags[bit as usize >> 3] & (1 << (bit & 7)) != 0
    }
}

/// Integer constants: the name of their dictionary, then name and value of each.
pub(crate) const NUMBERS: &[(&str, &[(&str, i32)])] = &[
    (
        "bRCs",
        &[
            ("bRC_OK", 0),
            ("bRC_Stop", 1),
            ("bRC_Error", 2),
            ("bRC_More", 3),
            ("bRC_Term", 4),
            ("bRC_Seen", 5),
            ("bRC_Core", 6),
            ("bRC_Skip", 7),
            ("bRC_Cancel", 8),
        ],
    ),
    ("bCFs", &[("CF_SKIP", 1), ("CF_ERROR", 2), ("CF_EXTRACT", 3), ("CF_CREATED", 4), ("CF_CORE", 5)]),
    (
        "bFileType",
        &[
            ("FT_LNKSAVED", 1),
            ("FT_REGE", 2),
            ("FT_REG", 3),
            ("FT_LNK", 4),
            ("FT_DIREND", 5),
            ("FT_SPEC", 6),
            ("FT_NOACCESS", 7),
            ("FT_NOFOLLOW", 8),
            ("FT_NOSTAT", 9),
            ("FT_NOCHG", 10),
            ("FT_DIRNOCHG", 11),
            ("FT_ISARCH", 12),
            ("FT_NORECURSE", 13),
            ("FT_NOFSCHG", 14),
            ("FT_NOOPEN", 15),
            ("FT_RAW", 16),
            ("FT_FIFO", 17),
            ("FT_DIRBEGIN", 18),
            ("FT_INVALIDFS", 19),
            ("FT_INVALIDDT", 20),
            ("FT_REPARSE", 21),
            ("FT_PLUGIN", 22),
            ("FT_DELETED", 23),
            ("FT_BASE", 24),
            ("FT_RESTORE_FIRST", 25),
            ("FT_JUNCTION", 26),
            ("FT_PLUGIN_CONFIG", 27),
            ("FT_PLUGIN_CONFIG_FILLED", 28),
        ],
    ),
    ("bIOPS", &[("IO_OPEN", 1), ("IO_READ", 2), ("IO_WRITE", 3), ("IO_CLOSE", 4), ("IO_SEEK", 5)]),
    ("bIOPstatus", &[("iostat_error", -1), ("iostat_do_in_plugin", 0), ("iostat_do_in_core", 1)]),
    (
        "bJobMessageType",
        &[
            ("M_ABORT", 1),
            ("M_DEBUG", 2),
            ("M_FATAL", 3),
            ("M_ERROR", 4),
            ("M_WARNING", 5),
            ("M_INFO", 6),
            ("M_SAVED", 7),
            ("M_NOTSAVED", 8),
            ("M_SKIPPED", 9),
            ("M_MOUNT", 10),
            ("M_ERROR_TERM", 11),
            ("M_TERM", 12),
            ("M_RESTORED", 13),
            ("M_SECURITY", 14),
            ("M_ALERT", 15),
            ("M_VOLMGMT", 16),
        ],
    ),
    (
        "bVariable",
        &[
            ("bVarJobId", 1),
            ("bVarFDName", 2),
            ("bVarLevel", 3),
            ("bVarType", 4),
            ("bVarClient", 5),
            ("bVarJobName", 6),
            ("bVarJobStatus", 7),
            ("bVarSinceTime", 8),
            ("bVarAccurate", 9),
            ("bVarFileSeen", 10),
            ("bVarVssClient", 11),
            ("bVarWorkingDir", 12),
            ("bVarWhere", 13),
            ("bVarRegexWhere", 14),
            ("bVarExePath", 15),
            ("bVarVersion", 16),
            ("bVarDistName", 17),
            ("bVarPrevJobName", 18),
            ("bVarPrefixLinks", 19),
            ("bVarCheckChanges", 20),
            ("bVarUsedConfig", 21),
            ("bVarAccurateOptions", 23),
        ],
    ),
    (
        "bAccurateOption",
        &[
            ("bAccurateOptionInode", 1),
            ("bAccurateOptionPermissions", 2),
            ("bAccurateOptionNlink", 4),
            ("bAccurateOptionUid", 8),
            ("bAccurateOptionGid", 16),
            ("bAccurateOptionSize", 32),
            ("bAccurateOptionAtime", 64),
            ("bAccurateOptionMtime", 128),
            ("bAccurateOptionCtime", 256),
            ("bAccurateOptionSizeDecrease", 512),
            ("bAccurateOptionAlways", 1024),
            ("bAccurateOptionMD5", 2048),
            ("bAccurateOptionSha1", 4096),
        ],
    ),
    (
        "bEventType",
        &[
            ("bEventJobStart", 1),
            ("bEventJobEnd", 2),
            ("bEventStartBackupJob", 3),
            ("bEventEndBackupJob", 4),
            ("bEventStartRestoreJob", 5),
            ("bEventEndRestoreJob", 6),
            ("bEventStartVerifyJob", 7),
            ("bEventEndVerifyJob", 8),
            ("bEventBackupCommand", 9),
            ("bEventRestoreCommand", 10),
            ("bEventEstimateCommand", 11),
            ("bEventLevel", 12),
            ("bEventSince", 13),
            ("bEventCancelCommand", 14),
            ("bEventRestoreObject", 15),
            ("bEventEndFileSet", 16),
            ("bEventPluginCommand", 17),
            ("bEventOptionPlugin", 18),
            ("bEventHandleBackupFile", 19),
            ("bEventNewPluginOptions", 20),
            ("bEventVssInitializeForBackup", 21),
            ("bEventVssInitializeForRestore", 22),
            ("bEventVssSetBackupState", 23),
            ("bEventVssPrepareForBackup", 24),
            ("bEventVssBackupAddComponents", 25),
            ("bEventVssPrepareSnapshot", 26),
            ("bEventVssCreateSnapshots", 27),
            ("bEventVssRestoreLoadComponentMetadata", 28),
            ("bEventVssRestoreSetComponentsSelected", 29),
            ("bEventVssCloseRestore", 30),
            ("bEventVssBackupComplete", 31),
        ],
    ),
];

/// Job levels: one-character strings, in the dictionary `bLevels` as bytes.
pub(crate) const LEVELS: &[(&str, &str)] = &[
    ("L_FULL", "F"),
    ("L_INCREMENTAL", "I"),
    ("L_DIFFERENTIAL", "D"),
    ("L_SINCE", "S"),
    ("L_VERIFY_CATALOG", "C"),
    ("L_VERIFY_INIT", "V"),
    ("L_VERIFY_VOLUME_TO_CATALOG", "O"),
    ("L_VERIFY_DISK_TO_CATALOG", "d"),
    ("L_VERIFY_DATA", "A"),
    ("L_BASE", "B"),
    ("L_NONE", " "),
    ("L_VIRTUAL_FULL", "f"),
];
