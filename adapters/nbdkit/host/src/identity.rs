//! Users and groups (reference 2.1: `-u`, `-g`).

use nix::unistd::{Gid, Group, Uid, User, setgid, setgroups, setuid};

use crate::options::Options;

/// Whom the server becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    user: Option<Uid>,
    group: Option<Gid>,
}

impl Identity {
    /// Looks both up: names or numbers.
    ///
    /// # Errors
    /// One sentence that names the option.
    pub fn of(options: &Options) -> Result<Self, String> {
        let user = options.user.as_deref().map(|name| {
            let known = User::from_name(name).ok().flatten().map(|user| user.uid);
            known
                .or_else(|| name.parse().ok().map(Uid::from_raw))
                .ok_or_else(|| format!("-u option: {name} is not a valid user name or uid"))
        });
        let group = options.group.as_deref().map(|name| {
            let known = Group::from_name(name).ok().flatten().map(|group| group.gid);
            known
                .or_else(|| name.parse().ok().map(Gid::from_raw))
                .ok_or_else(|| format!("-g option: {name} is not a valid group name or gid"))
        });
        Ok(Self { user: user.transpose()?, group: group.transpose()? })
    }

    /// Becomes them: the group first, which is also the only supplementary one.
    ///
    /// # Errors
    /// One sentence: the system refuses.
    pub fn assume(self) -> Result<(), String> {
        if let Some(group) = self.group {
            setgid(group).map_err(|error| format!("setgid: {error}"))?;
            setgroups(&[group]).map_err(|error| format!("setgroups: {error}"))?;
        }
        if let Some(user) = self.user {
            setuid(user).map_err(|error| format!("setuid: {error}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_looked_up() {
        let options = |user: &str, group: &str| Options {
            user: Some(user.to_owned()),
            group: Some(group.to_owned()),
            ..Options::default()
        };
        let root = Identity::of(&options("root", "0")).unwrap();
        assert_eq!(root, Identity { user: Some(Uid::from_raw(0)), group: Some(Gid::from_raw(0)) });
        assert!(Identity::of(&options("nobody-at-all", "0")).unwrap_err().contains("-u option: nobody-at-all"));
        assert!(Identity::of(&options("0", "nobody-at-all")).unwrap_err().contains("-g option: nobody-at-all"));
    }
}
