//! The plugin for S3 buckets against a service that others wrote, which checks every signature: a bucket is saved, emptied,
//! filled again, and compared, metadata too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use backstay_stores::testing::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

use crate::place::{Place, count, noise, succeed, top};

const BUCKET: &str = "photos";

/// A place with a service and one bucket of many objects.
struct Bucket {
    place: Place,
    server: S3Server,
}

impl Bucket {
    fn new() -> Self {
        let place = Place::with_repository();
        fs::create_dir(place.path("buckets")).unwrap();
        let server = S3Server::start(&place.path("buckets"));
        server.create_bucket(BUCKET);
        fs::write(place.path("secret"), SECRET_KEY).unwrap();
        let bucket = Self { place, server };
        for (key, data) in
            [("empty", vec![]), ("a folder/b+c%20 \u{fc}&", noise(1, 1000)), ("large", noise(2, 9 << 20))]
        {
            bucket.write(key, &data);
        }
        for number in 0..60 {
            bucket.write(&format!("many/{number:03}"), &noise(100 + number, 300 * number as usize));
        }
        bucket.put("documented", "text/plain", "ann", b"with metadata");
        bucket
    }

    fn folder(&self) -> PathBuf {
        self.place.path("buckets").join(BUCKET)
    }

    /// Puts data where the service finds it.
    fn write(&self, key: &str, data: &[u8]) {
        let path = self.folder().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, data).unwrap();
    }

    /// Puts an object with metadata through the service.
    fn put(&self, key: &str, kind: &str, owner: &str, data: &[u8]) {
        let python = top().join("adapters/bareos/python");
        let script = "import sys, tempfile\n\
            sys.path[:0] = [sys.argv[1] + '/plugins', sys.argv[1] + '/modules', sys.argv[1] + '/tests/fake']\n\
            import backstay_s3\n\
            service = backstay_s3.Service(sys.argv[2], 'us-east-1', (sys.argv[3], sys.argv[4], None))\n\
            file = tempfile.TemporaryFile(buffering=0)\n\
            file.write(bytes.fromhex(sys.argv[9]))\n\
            headers = {'content-type': sys.argv[7], 'x-amz-meta-owner': sys.argv[8]}\n\
            service.put(sys.argv[5], sys.argv[6], file, headers, 1 << 20)\n";
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        succeed(Command::new("/usr/bin/python3").args(["-B", "-c", script]).arg(python).args([
            &self.server.endpoint(),
            ACCESS_KEY,
            SECRET_KEY,
            BUCKET,
            key,
            kind,
            owner,
            &hex,
        ]));
    }

    /// The definition of the plugin for this bucket.
    fn definition(&self, options: &str) -> String {
        format!(
            "python3:module_path={}:module_name=backstay_s3:endpoint={}:bucket={BUCKET}:access_key={ACCESS_KEY}:\
             secret_key@file={}:{options}",
            top().join("adapters/bareos/python/plugins").display(),
            self.server.endpoint().replace(':', "\\:"),
            self.place.path("secret").display()
        )
    }

    /// Every object's data.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let read = |key: &str| fs::read(self.folder().join(key)).unwrap();
        self.server.objects(BUCKET).into_iter().map(|(key, _)| (key.clone(), read(&key))).collect()
    }

    /// What the service keeps beside the data of objects.
    fn metadata(&self) -> Vec<String> {
        let list = fs::read_dir(self.place.path("buckets")).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> =
            list.filter(|path| is_metadata(path)).map(|path| fs::read_to_string(path).unwrap()).collect();
        found.retain(|text| text.contains("owner"));
        found
    }

    /// Destroys all objects.
    fn empty(&self) {
        for entry in fs::read_dir(self.place.path("buckets")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        self.server.create_bucket(BUCKET);
    }
}

fn is_metadata(path: &Path) -> bool {
    path.is_file() && path.file_name().unwrap().to_string_lossy().contains("metadata")
}

fn bucket_comes_back(options: &str) {
    let bucket = Bucket::new();
    let (content, metadata) = (bucket.content(), bucket.metadata());
    assert_eq!(metadata.len(), 1);
    let summary = bucket.place.back_up(["--plugin", &bucket.definition(options)]);
    assert_eq!(count(&summary, "total_files_processed"), content.len() as u64, "{summary}");
    bucket.place.assert_sound();

    bucket.empty();
    let target = bucket.place.path("nothing");
    fs::create_dir(&target).unwrap();
    let mut restore = bucket.place.backstay(["restore", "latest", "--through-plugin", "--target"]);
    // Parts of the smallest size that a service takes.
    succeed(restore.arg(&target).args(["--plugin-options", "python3:restore=bucket:part_size=5242880"]));
    assert!(bucket.content() == content, "{:?}", bucket.server.objects(BUCKET));
    assert_eq!(bucket.metadata(), metadata);

    let plain = bucket.place.restore("latest", "plain").join("@S3").join(BUCKET);
    for (key, data) in content {
        assert!(fs::read(plain.join(&key)).unwrap() == data, "{key}");
    }
}

#[test]
fn an_accurate_incremental_reads_what_changed_and_forgets_what_is_gone() {
    let bucket = Bucket::new();
    for key in bucket.content().into_keys() {
        let file = fs::File::options().write(true).open(bucket.folder().join(key)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000)).unwrap();
    }
    bucket.place.back_up(["--plugin", &bucket.definition("")]);
    bucket.write("large", &noise(3, 7 << 20));
    bucket.write("new", b"new");
    fs::remove_file(bucket.folder().join("empty")).unwrap();
    let content = bucket.content();
    let asked = bucket.server.requests().len();
    let summary = bucket.place.back_up(["--level", "incremental", "--accurate", "--plugin", &bucket.definition("")]);
    assert_eq!(summary["entries"]["saved"], 2, "{summary}");
    let mut read = bucket.server.requests().split_off(asked);
    read.retain(|request| !request.contains("list-type"));
    assert_eq!(read, [format!("GET /{BUCKET}/large"), format!("GET /{BUCKET}/new")]);

    bucket.empty();
    let target = bucket.place.path("nothing");
    fs::create_dir(&target).unwrap();
    let mut restore = bucket.place.backstay(["restore", "latest", "--through-plugin", "--target"]);
    succeed(restore.arg(&target).args(["--plugin-options", "python3:restore=bucket"]));
    assert!(bucket.content() == content, "{:?}", bucket.server.objects(BUCKET));
}

#[test]
fn an_emptied_bucket_is_filled_again_by_direct_io() {
    bucket_comes_back("");
}

#[test]
fn an_emptied_bucket_is_filled_again_by_plugin_io() {
    bucket_comes_back("io=plugin:prefetch_size=500000");
}
