//! An S3 server in this process, for tests: s3s over a folder (s3s-fs), on loopback. A bucket is a folder in it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::ListObjectsV2Input;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Request, S3Result};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "AKIDBACKSTAYTEST";
/// Its secret.
pub const SECRET_KEY: &str = "a-secret-that-nobody-may-see";
/// The region to name.
pub const REGION: &str = "us-east-1";

/// The server. It ends, with all its connections, when it goes out of scope.
pub struct S3Server {
    address: SocketAddr,
    folder: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    runtime: Option<Runtime>,
}

/// restic asks for lists with an empty delimiter, which to S3 is none. s3s-fs would cut every name at its first letter.
/// Requests without a known signature are refused, as without this.
struct NoEmptyDelimiter;

#[async_trait::async_trait]
impl S3Access for NoEmptyDelimiter {
    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        request.input.delimiter.take_if(|delimiter| delimiter.is_empty());
        Ok(())
    }
}

impl fmt::Debug for S3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl S3Server {
    /// Serves the buckets in this folder.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, ACCESS_KEY, SECRET_KEY)
    }

    /// The same for another access key and its secret.
    #[must_use]
    pub fn start_with(folder: &Path, access_key: &str, secret_key: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).unwrap());
        builder.set_auth(SimpleAuth::from_single(access_key, secret_key));
        builder.set_access(NoEmptyDelimiter);
        let service = builder.build();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::clone(&requests);
        runtime.spawn(async move {
            loop {
                let Ok((socket, _)) = listener.accept().await else { continue };
                let (service, log) = (service.clone(), Arc::clone(&log));
                let noted = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    log.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                    Service::call(&service, request)
                });
                tokio::spawn(async move {
                    // A client that goes away ends its connection, nothing else.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), noted).await;
                });
            }
        });
        Self { address, folder: folder.to_owned(), requests, runtime: Some(runtime) }
    }

    /// `127.0.0.1:` and the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:` and the port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a bucket.
    pub fn create_bucket(&self, name: &str) {
        std::fs::create_dir(self.folder.join(name)).unwrap();
    }

    /// The environment that holds the credentials.
    #[must_use]
    pub fn credentials() -> [(&'static str, &'static str); 3] {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_DEFAULT_REGION", REGION)]
    }

    /// The files of a bucket with their sizes in bytes: what everybody sees.
    #[must_use]
    pub fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        let root = self.folder.join(bucket);
        let mut list = Vec::new();
        walk(&root, &root, &mut list);
        list.sort();
        list
    }

    /// What was asked so far, in order: method, path and query of each request.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn walk(root: &Path, folder: &Path, list: &mut Vec<(String, u64)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, list);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            list.push((name, path.metadata().unwrap().len()));
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Not `drop`: a connection that somebody keeps open must not hold the test up.
        self.runtime.take().unwrap().shutdown_timeout(std::time::Duration::from_secs(5));
    }
}
