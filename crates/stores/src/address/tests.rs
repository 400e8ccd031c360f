use super::*;

fn s3_of(text: &str) -> Bucket {
    match Address::parse(text) {
        Ok(Address::S3(bucket)) => bucket,
        other => panic!("{text}: {other:?}"),
    }
}

fn error_of(text: &str) -> String {
    match Address::parse(text) {
        Err(error) => error.to_string(),
        Ok(address) => panic!("{text}: {address:?}"),
    }
}

#[test]
fn what_has_no_scheme_is_a_folder() {
    for text in ["/srv/backup", "./s3:x", "a:b", "relative", "C:", "2026-11-22T10:00"] {
        assert_eq!(Address::parse(text), Ok(Address::Local(PathBuf::from(text))), "{text}");
    }
    assert_eq!(Address::parse("local:/srv/backup"), Ok(Address::Local(PathBuf::from("/srv/backup"))));
    assert_eq!(Address::parse("local:s3:x"), Ok(Address::Local(PathBuf::from("s3:x"))));
}

#[test]
fn the_spellings_of_an_s3_bucket() {
    for (text, name, prefix, endpoint) in [
        ("s3://bucket/prefix", "bucket", "prefix", None),
        ("s3://bucket", "bucket", "", None),
        ("s3://bucket/a//b/?endpoint=http://h:9000/", "bucket", "a/b", Some("http://h:9000")),
        ("s3://bucket?endpoint=h.example", "bucket", "", Some("https://h.example")),
        ("s3:https://h.example/bucket/a/b", "bucket", "a/b", Some("https://h.example")),
        ("s3:http://127.0.0.1:9000/bucket", "bucket", "", Some("http://127.0.0.1:9000")),
        ("s3:h.example:9000/bucket/a", "bucket", "a", Some("https://h.example:9000")),
        ("s3:s3.amazonaws.com/bucket", "bucket", "", Some("https://s3.amazonaws.com")),
        ("s3://s3.amazonaws.com/bucket/a", "bucket", "a", Some("https://s3.amazonaws.com")),
        ("s3://localhost:9000/bucket/a", "bucket", "a", Some("https://localhost:9000")),
    ] {
        let bucket = s3_of(text);
        assert_eq!(
            (bucket.name.as_str(), bucket.prefix.as_str(), bucket.endpoint.as_deref()),
            (name, prefix, endpoint),
            "{text}"
        );
    }
    let settings = s3_of("s3://bucket/p?region=eu-1&storage-class=STANDARD_IA").settings;
    assert_eq!(settings, [("region".into(), "eu-1".into()), ("storage-class".into(), "STANDARD_IA".into())]);
}

#[test]
fn the_spellings_of_the_others() {
    for text in ["gs:bucket:/a/b", "gs:bucket:a/b/", "gs://bucket/a/b"] {
        let Ok(Address::Gcs(bucket)) = Address::parse(text) else { panic!("{text}") };
        assert_eq!((bucket.name.as_str(), bucket.prefix.as_str()), ("bucket", "a/b"), "{text}");
    }
    assert!(matches!(Address::parse("azure:container:/"), Ok(Address::Azure(bucket)) if bucket.prefix.is_empty()));
    assert!(matches!(Address::parse("swift:container:/x"), Ok(Address::Swift(bucket)) if bucket.prefix == "x"));

    for (text, user, host, port, path) in [
        ("sftp:me@host:/srv/repo", Some("me"), "host", None, "/srv/repo"),
        ("sftp:host:repo", None, "host", None, "repo"),
        ("sftp://me@host:2222//srv/repo", Some("me"), "host", Some(2222), "/srv/repo"),
        ("sftp://host/repo", None, "host", None, "repo"),
        ("sftp://[::1]:22//repo", None, "::1", Some(22), "/repo"),
        ("sftp:me@corp@host:/x", Some("me@corp"), "host", None, "/x"),
    ] {
        let Ok(Address::Sftp(sftp)) = Address::parse(text) else { panic!("{text}") };
        assert_eq!((sftp.user.as_deref(), sftp.host.as_str(), sftp.port, sftp.path.as_str()), (user, host, port, path));
    }

    let rest = Address::parse("rest:https://me:hush@host:8000/repo").unwrap();
    assert_eq!(rest.shown(), "rest:https://host:8000/repo");
    let Ok(Address::WebDav(web)) = Address::parse("webdavs://me:hu%2Fsh@host:8000/repo") else { panic!() };
    assert_eq!(web.url, "https://host:8000/repo/");
    assert_eq!((web.user.as_deref(), web.password.as_ref().map(Secret::expose)), (Some("me"), Some("hu/sh")));
    let Ok(Address::WebDav(web)) = Address::parse("webdavs://host/dav") else { panic!() };
    assert_eq!(web.url, "https://host/dav/");
    assert!(
        matches!(Address::parse("webdav://host:81/dav"), Ok(Address::WebDav(web)) if web.url == "http://host:81/dav/")
    );
}

#[test]
fn no_password_is_shown() {
    for text in ["rest:https://me:hush@host/x", "webdavs://me:hush@host/x"] {
        let address = Address::parse(text).unwrap();
        assert!(!format!("{address:?} {}", address.shown()).contains("hush"), "{address:?}");
    }
    for text in [
        "https://me:hush@host/",
        "s3:https://me:hush@host/bucket",
        "s3://me:hush@host/bucket",
        "sftp://me:hush@host/x",
        "rest:ftp://me:hush@host/",
        "rest:me:hush@host/",
        "wat://me:hush@host/",
        "s3://bucket?secret_access_key=hush",
        "s3://bucket?endpoint=https://me:hush@host",
    ] {
        assert!(!error_of(text).contains("hush"), "{}", error_of(text));
    }
}

#[test]
fn a_slip_gets_a_hint_and_what_is_missing_is_named() {
    for (text, part) in [
        ("", "empty"),
        ("s4://bucket/x", "did you mean \"s3:\""),
        ("stfp:me@host:/x", "did you mean \"sftp:\""),
        ("S3://bucket", "did you mean \"s3:\""),
        ("https://host/x", "did you mean \"rest:\""),
        ("gcs://bucket/x", "did you mean \"gs:\""),
        ("ssh://host/x", "did you mean \"sftp:\""),
        ("unheard-of://x", "there are local:, s3:,"),
        ("rclone:remote:x", "rclone serve restic"),
        ("b2:bucket:x", "Backblaze speaks S3"),
        ("file:///srv", "local:/path"),
        ("s3:host", "names no bucket"),
        ("s3://", "names no bucket"),
        ("s3:", "names no host"),
        ("gs::/x", "no bucket"),
        ("gs:bucket/x", "colon"),
        ("sftp:host", "colon"),
        ("sftp://host", "no folder"),
        ("sftp://host:port/x", "port"),
        ("sftp:-oProxyCommand=x:/y", "dash"),
        ("rest:host/x", "http"),
        ("local:", "no folder"),
    ] {
        assert!(error_of(text).contains(part), "{text}: {}", error_of(text));
    }
}
