use super::*;
use crate::environment::Environment;

fn options() -> StoreOptions {
    StoreOptions {
        environment: Environment::fixed([("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "hush-hush")]),
        ..StoreOptions::default()
    }
}

fn refused(address: &str, options: &StoreOptions) -> String {
    match open(address, options) {
        Err(error) => error.to_string(),
        Ok(store) => panic!("{address}: {}", store.location()),
    }
}

#[test]
fn a_store_says_where_it_is_without_secrets() {
    for (address, location) in [
        ("/srv/backup", "/srv/backup"),
        ("local:/srv/backup", "/srv/backup"),
        ("s3:http://127.0.0.1:9/bucket/a", "s3:http://127.0.0.1:9/bucket/a"),
        ("s3://bucket/a?endpoint=http://127.0.0.1:9&region=x", "s3:http://127.0.0.1:9/bucket/a"),
    ] {
        let store = open(address, &options()).unwrap();
        assert_eq!(store.location(), location);
        assert!(!format!("{store:?}").contains("hush"), "{store:?}");
    }
    assert!(!format!("{:?}", options()).contains("hush"));
}

#[test]
fn options_that_nobody_knows_are_refused() {
    let with = |extended: &[&str]| StoreOptions {
        extended: extended.iter().map(|text| (*text).to_owned()).collect(),
        ..options()
    };
    for (address, extended, part) in [
        ("s3:http://127.0.0.1:9/b", "s3.colour=red", "no option \"colour\": there are bucket-lookup, connections"),
        ("s3:http://127.0.0.1:9/b", "nobody.key=1", "begins with one of"),
        ("s3:http://127.0.0.1:9/b", "s3.region", "has no \"=\""),
        ("s3:http://127.0.0.1:9/b", "s3.connections=0", "between 1 and 1000"),
        ("s3:http://127.0.0.1:9/b", "s3.connections=many", "number"),
        ("s3:http://127.0.0.1:9/b", "s3.bucket-lookup=guess", "auto, dns or path"),
        ("s3:http://127.0.0.1:9/b", "s3.list-objects-v1=maybe", "true or false"),
        ("s3:http://127.0.0.1:9/b", "s3.storage-class=cupboard:COLD", "pack, index"),
        ("s3:http://127.0.0.1:9/b", "s3.storage-class=COLD,pack:COLDER", "two storage classes"),
        ("s3:http://127.0.0.1:9/b", "s3.storage-class=pack:a b", "no storage class"),
        ("/srv/backup", "local.region=x", "no option"),
    ] {
        let text = refused(address, &with(&[extended]));
        assert!(text.contains(part), "{extended}: {text}");
    }
    assert!(refused("s3://b?endpoint=http://127.0.0.1:9&colour=red", &options()).contains("colour"));
    // Of another kind of store: that is for another repository.
    open("/srv/backup", &with(&["s3.region=x", "local.connections=7"])).unwrap();
}

#[test]
fn the_number_of_calls_at_once_can_be_said() {
    let more = StoreOptions { connections: Some(33), ..options() };
    assert_eq!(open("s3:http://127.0.0.1:9/b", &more).unwrap().calls_at_once(), 33);
    let special = StoreOptions { extended: vec!["s3.connections=5".to_owned()], ..more };
    assert_eq!(open("s3:http://127.0.0.1:9/b", &special).unwrap().calls_at_once(), 5);
    assert_eq!(open("s3:http://127.0.0.1:9/b", &options()).unwrap().calls_at_once(), 16);
    assert_eq!(open("/srv/backup", &options()).unwrap().calls_at_once(), 4);
}

#[test]
fn half_of_the_credentials_is_refused() {
    let half = StoreOptions { environment: Environment::fixed([("AWS_ACCESS_KEY_ID", "me")]), ..options() };
    assert!(refused("s3:http://127.0.0.1:9/b", &half).contains("go together"));
}

#[test]
fn a_dotted_name_without_an_endpoint_is_asked_about() {
    let text = refused("s3://my.bucket/x", &options());
    assert!(text.contains("a host or a bucket"), "{text}");
    let named =
        StoreOptions { environment: Environment::fixed([("AWS_ENDPOINT_URL", "http://127.0.0.1:9")]), ..options() };
    assert_eq!(open("s3://my.bucket/x", &named).unwrap().location(), "s3:http://127.0.0.1:9/my.bucket/x");
}
