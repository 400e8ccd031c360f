//! The user that a worker runs as, where it is not the host's own.

use std::path::PathBuf;

/// A user with its groups, looked up once by the host: the worker gets numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginUser {
    /// Its name, or its number where it has none.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The group it runs in.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its home folder.
    pub home: PathBuf,
}

/// Why a worker cannot run as a user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("there is no user {0} on this host")]
    NoUser(String),
    /// No such group.
    #[error("there is no group {0} on this host")]
    NoGroup(String),
    /// Only root may become somebody else.
    #[error("only root may run plugins as another user, and this is user {0}")]
    NotRoot(u32),
}

impl PluginUser {
    /// The user of `USER` or `USER:GROUP`, names or numbers. Without a group it is the user's own with its supplementary
    /// groups; a group that is named is the only one.
    ///
    /// # Errors
    /// See [`UserError`].
    pub fn named(text: &str) -> Result<Self, UserError> {
        let own = rustix::process::geteuid().as_raw();
        if own != 0 {
            return Err(UserError::NotRoot(own));
        }
        let (name, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let by_number = || name.parse().ok().and_then(uzers::get_user_by_uid);
        let user =
            uzers::get_user_by_name(name).or_else(by_number).ok_or_else(|| UserError::NoUser(name.to_owned()))?;
        let (gid, groups) = match group {
            None => {
                let own = user.primary_group_id();
                let all = uzers::get_user_groups(user.name(), own).unwrap_or_default();
                (own, all.iter().map(uzers::Group::gid).collect())
            }
            Some(group) => {
                let by_number = || group.parse().ok().and_then(uzers::get_group_by_gid);
                let found = uzers::get_group_by_name(group).or_else(by_number);
                let gid = found.ok_or_else(|| UserError::NoGroup(group.to_owned()))?.gid();
                (gid, vec![gid])
            }
        };
        Ok(Self {
            name: user.name().to_string_lossy().into_owned(),
            uid: user.uid(),
            gid,
            groups,
            home: uzers::os::unix::UserExt::home_dir(&user).to_owned(),
        })
    }

    /// One word for a command line: `NAME:UID:GID:GID,GID`.
    pub(crate) fn word(&self) -> String {
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        format!("{}:{}:{}:{}", self.name, self.uid, self.gid, groups.join(","))
    }

    /// What [`PluginUser::word`] wrote, but for the home folder.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        let mut parts = word.rsplitn(4, ':');
        let groups = parts.next()?;
        let gid = parts.next()?.parse().ok()?;
        let uid = parts.next()?.parse().ok()?;
        let name = parts.next()?.to_owned();
        let groups = groups.split(',').filter(|group| !group.is_empty()).map(|group| group.parse().ok());
        Some(Self { name, uid, gid, groups: groups.collect::<Option<_>>()?, home: PathBuf::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_survives_the_command_line() {
        let user = PluginUser { name: "a:b".into(), uid: 5, gid: 6, groups: vec![6, 7], home: PathBuf::new() };
        assert_eq!(PluginUser::of_word(&user.word()), Some(user));
        let alone = PluginUser { name: "x".into(), uid: 5, gid: 6, groups: Vec::new(), home: PathBuf::new() };
        assert_eq!(PluginUser::of_word(&alone.word()), Some(alone));
        for wrong in ["", "x", "x:1:2", "x:y:1:2", "x:1:2:a"] {
            assert_eq!(PluginUser::of_word(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn users_and_groups_that_are_not_there_are_named() {
        if rustix::process::geteuid().as_raw() != 0 {
            let said = PluginUser::named("nobody").unwrap_err().to_string();
            assert!(said.starts_with("only root may run plugins as another user"), "{said}");
            return;
        }
        let said = |text| PluginUser::named(text).unwrap_err().to_string();
        assert_eq!(said("no-such-user"), "there is no user no-such-user on this host");
        assert_eq!(said("nobody:no-such-group"), "there is no group no-such-group on this host");
        let nobody = PluginUser::named("nobody").unwrap();
        assert_eq!(PluginUser::named(&nobody.uid.to_string()).unwrap(), nobody);
        let grouped = PluginUser::named("nobody:0").unwrap();
        assert_eq!((grouped.uid, grouped.gid, grouped.groups), (nobody.uid, 0, vec![0]));
    }
}
