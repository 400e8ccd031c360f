//! What can go wrong at a store, in one table: which status, code or errno means what, whether trying again helps, and
//! what the user is told. `docs/stores.md` shows the same table (a test compares them).

use backstay_core::{Retry, StoreErrorKind};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// The object is not there.
    Missing,
    /// The bucket or container is not there.
    NoBucket,
    /// No credentials were found to log in with.
    NoCredentials,
    /// The credentials are not those of anybody.
    WrongCredentials,
    /// The credentials were good once.
    Expired,
    /// The two clocks differ too much for a signature.
    Clock,
    /// Whoever we are may not do this.
    Denied,
    /// The bucket lives elsewhere.
    WrongRegion,
    /// The object lies in an archive and must be brought back first.
    Archived,
    /// The object is there already.
    Exists,
    /// No room.
    Full,
    /// Too many requests.
    Throttled,
    /// The store is disturbed.
    Unavailable,
    /// Nobody answers at this address.
    Unreachable,
    /// The host has no address.
    NoSuchHost,
    /// No secure connection.
    Tls,
    /// The key of an SSH host is not the one that is known.
    UnknownHost,
    /// Nothing was heard for a long time.
    Silent,
    /// The answer ended too early.
    Cut,
    /// The store understood and will not.
    Refused,
    /// Anything else.
    Other,
}

/// Whether trying again helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It does not.
    Permanent,
    /// It may.
    Temporary,
    /// It may, later and slower.
    Throttled,
}

/// A line of the table.
#[derive(Debug)]
pub struct Row {
    /// What went wrong.
    pub trouble: Trouble,
    /// HTTP statuses that mean it, unless a code says otherwise.
    pub statuses: &'static [u16],
    /// Codes in the body of an answer that mean it, whatever the status.
    pub codes: &'static [&'static str],
    /// What else means it, in words: an errno, an event.
    pub signs: &'static [&'static str],
    /// Whether trying again helps.
    pub class: Class,
    /// For the program.
    pub kind: StoreErrorKind,
    /// For the user: what it is and what to do.
    pub advice: &'static str,
}

/// How long a whole call may take with all its attempts, by default.
pub const DEFAULT_RETRY_TIME: std::time::Duration = std::time::Duration::from_secs(15 * 60);
/// The same while the store has never answered: the address may be wrong, and the user waits.
pub const FIRST_ANSWER_TIME: std::time::Duration = std::time::Duration::from_secs(10);
/// How long nothing at all may be heard before an attempt counts as failed.
pub const SILENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// The table. A code counts before a status.
pub const TABLE: &[Row] = &[
    Row {
        trouble: Trouble::Missing,
        statuses: &[404, 410],
        codes: &["NoSuchKey", "BlobNotFound"],
        signs: &["ENOENT", "ENOTDIR"],
        class: Class::Permanent,
        kind: StoreErrorKind::NotFound,
        advice: "it is not there",
    },
    Row {
        trouble: Trouble::NoBucket,
        statuses: &[],
        codes: &["NoSuchBucket", "ContainerNotFound"],
        signs: &[],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "there is no such bucket or container: make it, or correct the address",
    },
    Row {
        trouble: Trouble::NoCredentials,
        statuses: &[],
        codes: &[],
        signs: &["no credentials found"],
        class: Class::Permanent,
        kind: StoreErrorKind::Denied,
        advice: "no credentials were found: set them in the environment or in the provider's file",
    },
    Row {
        trouble: Trouble::WrongCredentials,
        statuses: &[401],
        codes: &["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidAuthenticationInfo", "AuthenticationFailed"],
        signs: &["EACCES at login"],
        class: Class::Permanent,
        kind: StoreErrorKind::Denied,
        advice: "the store does not accept the credentials: check the key or the password",
    },
    Row {
        trouble: Trouble::Expired,
        statuses: &[],
        codes: &["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"],
        signs: &[],
        class: Class::Permanent,
        kind: StoreErrorKind::Denied,
        advice: "the session token has expired or is not valid: fetch a new one",
    },
    Row {
        trouble: Trouble::Clock,
        statuses: &[],
        codes: &["RequestTimeTooSkewed", "RequestExpired"],
        signs: &[],
        class: Class::Permanent,
        kind: StoreErrorKind::Denied,
        advice: "this computer's clock and the store's differ too much: set the clock",
    },
    Row {
        trouble: Trouble::Denied,
        statuses: &[403, 405],
        codes: &["AccessDenied", "AuthorizationFailure", "AuthorizationPermissionMismatch", "AllAccessDisabled"],
        signs: &["EACCES", "EPERM", "EROFS"],
        class: Class::Permanent,
        kind: StoreErrorKind::Denied,
        advice: "access denied: these credentials may not do this here",
    },
    Row {
        trouble: Trouble::WrongRegion,
        statuses: &[301, 302, 307, 308],
        codes: &[
            "PermanentRedirect",
            "TemporaryRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ],
        signs: &[],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "the bucket is in another region or at another address: name its region (?region=...) or endpoint",
    },
    Row {
        trouble: Trouble::Archived,
        statuses: &[],
        codes: &["InvalidObjectState", "BlobArchived"],
        signs: &[],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "the object lies in an archive class: let the provider bring it back first",
    },
    Row {
        trouble: Trouble::Exists,
        statuses: &[412],
        codes: &["PreconditionFailed", "BlobAlreadyExists"],
        signs: &["EEXIST"],
        class: Class::Permanent,
        kind: StoreErrorKind::Exists,
        advice: "it is there already",
    },
    Row {
        trouble: Trouble::Full,
        statuses: &[507],
        codes: &["QuotaExceeded", "InsufficientStorage", "InsufficientCapacity", "XMinioStorageFull"],
        signs: &["ENOSPC", "EDQUOT"],
        class: Class::Permanent,
        kind: StoreErrorKind::Full,
        advice: "the store has no room left: make room or raise the quota",
    },
    Row {
        trouble: Trouble::Throttled,
        statuses: &[429],
        codes: &[
            "SlowDown",
            "TooManyRequests",
            "RequestLimitExceeded",
            "ServerBusy",
            "Throttling",
            "ThrottlingException",
        ],
        signs: &[],
        class: Class::Throttled,
        kind: StoreErrorKind::Other,
        advice: "the store asks for fewer requests",
    },
    Row {
        trouble: Trouble::Unavailable,
        statuses: &[408, 425, 499, 500, 502, 503, 504],
        codes: &[
            "InternalError",
            "ServiceUnavailable",
            "RequestTimeout",
            "OperationTimedOut",
            "OperationAborted",
            "ConditionalRequestConflict",
        ],
        signs: &["EINTR", "EAGAIN", "ETIMEDOUT", "ESTALE"],
        class: Class::Temporary,
        kind: StoreErrorKind::Other,
        advice: "the store is disturbed",
    },
    Row {
        trouble: Trouble::Unreachable,
        statuses: &[],
        codes: &[],
        signs: &["connection refused, reset or timed out", "no route"],
        class: Class::Temporary,
        kind: StoreErrorKind::Other,
        advice: "nobody answers there: check the address, the port and the network",
    },
    Row {
        trouble: Trouble::NoSuchHost,
        statuses: &[],
        codes: &[],
        signs: &["the name has no address (DNS)"],
        class: Class::Temporary,
        kind: StoreErrorKind::Other,
        advice: "the host's name has no address: check its spelling and the name service (DNS)",
    },
    Row {
        trouble: Trouble::Tls,
        statuses: &[],
        codes: &[],
        signs: &["certificate or TLS handshake"],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "no secure connection (TLS): check the certificate, and http: against https:",
    },
    Row {
        trouble: Trouble::UnknownHost,
        statuses: &[],
        codes: &[],
        signs: &["the host's key (SSH)"],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "the host's key is not known, or is another one than it was: check it, then connect once with ssh (or -o sftp.known-hosts=add for a new host)",
    },
    Row {
        trouble: Trouble::Silent,
        statuses: &[],
        codes: &[],
        signs: &["not a byte moved for 60 s"],
        class: Class::Temporary,
        kind: StoreErrorKind::Other,
        advice: "the store has fallen silent",
    },
    Row {
        trouble: Trouble::Cut,
        statuses: &[],
        codes: &["IncompleteBody"],
        signs: &["the body is shorter than announced"],
        class: Class::Temporary,
        kind: StoreErrorKind::Other,
        advice: "the connection broke off in the middle",
    },
    Row {
        trouble: Trouble::Refused,
        // What a store cannot do today it cannot do in five minutes.
        statuses: &[501, 505],
        codes: &["NotImplemented"],
        signs: &["any other 4xx"],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "the store refuses the request",
    },
    Row {
        trouble: Trouble::Other,
        statuses: &[],
        codes: &[],
        signs: &["anything else"],
        class: Class::Permanent,
        kind: StoreErrorKind::Other,
        advice: "the store cannot be used",
    },
];

impl Trouble {
    /// Its line of the table.
    ///
    /// # Panics
    /// Never: every trouble has a line, and a test counts them.
    #[must_use]
    pub fn row(self) -> &'static Row {
        TABLE.iter().find(|row| row.trouble == self).unwrap_or(&TABLE[TABLE.len() - 1])
    }

    /// What an HTTP answer means: the code in its body (empty if there is none) before its status.
    #[must_use]
    pub fn of_answer(status: u16, code: &str) -> Self {
        let by_code = TABLE.iter().find(|row| row.codes.contains(&code));
        let by_status = || TABLE.iter().find(|row| row.statuses.contains(&status));
        match by_code.or_else(by_status) {
            Some(row) => row.trouble,
            None if (400..500).contains(&status) => Self::Refused,
            None if (500..600).contains(&status) => Self::Unavailable,
            None => Self::Other,
        }
    }

    /// Whether to try again; `wait` is what the store itself asked for.
    #[must_use]
    pub fn retry(self, wait: Option<std::time::Duration>) -> Retry {
        match self.row().class {
            Class::Permanent => Retry::Never,
            Class::Temporary if wait.is_some() => Retry::Throttled(wait),
            Class::Temporary => Retry::Soon,
            Class::Throttled => Retry::Throttled(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_and_code_stands_in_one_line_only() {
        let mut seen = std::collections::HashSet::new();
        for row in TABLE {
            for status in row.statuses {
                assert!(seen.insert(status.to_string()), "{status} twice");
            }
            for word in row.codes.iter().chain(row.signs) {
                assert!(seen.insert((*word).to_owned()), "{word} twice");
            }
            assert_eq!(row.trouble.row().trouble, row.trouble, "{:?} has no line", row.trouble);
        }
    }

    #[test]
    fn the_page_shows_this_table() {
        let page = include_str!("../../../docs/stores.md");
        for row in TABLE {
            let statuses = row.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            let codes = row.codes.iter().map(|code| format!("`{code}`")).collect::<Vec<_>>().join(", ");
            let class = format!("{:?}", row.class).to_lowercase();
            let line = format!("| {statuses} | {codes} | {} | {class} | {} |", row.signs.join(", "), row.advice);
            assert!(page.lines().any(|other| other == line), "docs/stores.md has no line\n{line}");
        }
        let lines = page.lines().filter(|line| {
            ["| permanent |", "| temporary |", "| throttled |"].iter().any(|class| line.contains(class))
        });
        assert_eq!(lines.count(), TABLE.len(), "docs/stores.md has lines that the table has not");
        assert!(page.contains("15 minutes") && DEFAULT_RETRY_TIME.as_secs() == 15 * 60);
        assert!(page.contains("after ten seconds") && FIRST_ANSWER_TIME.as_secs() == 10);
        assert!(page.contains("for 60 seconds") && SILENCE.as_secs() == 60);
    }

    #[test]
    fn a_code_counts_before_the_status() {
        assert_eq!(Trouble::of_answer(404, "NoSuchBucket"), Trouble::NoBucket);
        assert_eq!(Trouble::of_answer(404, ""), Trouble::Missing);
        assert_eq!(Trouble::of_answer(403, "RequestTimeTooSkewed"), Trouble::Clock);
        assert_eq!(Trouble::of_answer(403, "NeverHeardOf"), Trouble::Denied);
        assert_eq!(Trouble::of_answer(503, "SlowDown"), Trouble::Throttled);
        assert_eq!(Trouble::of_answer(418, ""), Trouble::Refused);
        assert_eq!(Trouble::of_answer(501, ""), Trouble::Refused);
        assert_eq!(Trouble::of_answer(599, ""), Trouble::Unavailable);
    }

    #[test]
    fn what_the_store_asks_for_is_waited_for() {
        let second = std::time::Duration::from_secs(1);
        assert_eq!(Trouble::Unavailable.retry(None), Retry::Soon);
        assert_eq!(Trouble::Unavailable.retry(Some(second)), Retry::Throttled(Some(second)));
        assert_eq!(Trouble::Throttled.retry(None), Retry::Throttled(None));
        assert_eq!(Trouble::Denied.retry(Some(second)), Retry::Never);
    }
}
