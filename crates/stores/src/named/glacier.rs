//! A vault of Amazon's Glacier: archives under ids that the service gives, and jobs that bring them back hours later.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;
use serde::Deserialize;

use super::http::{Answer, Ask, Http};
use super::signature::{Signer, encoded, hex};
use super::{NamedError, Result, Watch, piece};
use crate::open::OpenError;
use crate::options::StoreOptions;
use crate::secret::Secret;

const MIB: u64 = 1 << 20;
/// Archives have at most so many parts, of a power of two of MiB.
const MOST_PARTS: u64 = 10_000;
/// What a job found is fetched in pieces of this many bytes.
const RANGE: u64 = 4 * MIB;
/// The longest description of an archive.
const LONGEST_DESCRIPTION: usize = 1024;
const VERSION: &str = "2012-06-01";
const SUM: &str = "x-amz-sha256-tree-hash";

/// A vault and the way to it.
#[derive(Clone, Debug)]
pub struct VaultPlace {
    /// The vault's name.
    pub vault: String,
    /// Scheme, host and port; none for Amazon.
    pub endpoint: Option<String>,
    /// Where the vault is.
    pub region: String,
    /// The key's name.
    pub access_key: String,
    /// The key.
    pub secret_key: Secret,
}

/// A vault.
#[derive(Debug)]
pub struct Vault {
    http: Http,
    signer: Signer,
    origin: String,
    path: String,
}

/// A job of a vault, as the service describes it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct Job {
    /// What the service calls it.
    #[serde(rename = "JobId")]
    pub id: String,
    /// `ArchiveRetrieval` or `InventoryRetrieval`.
    pub action: Option<String>,
    /// `InProgress`, `Succeeded` or `Failed`.
    pub status_code: Option<String>,
    /// When it was asked for.
    pub creation_date: Option<String>,
    /// When it was done.
    pub completion_date: Option<String>,
    /// Whether it is done.
    #[serde(default)]
    pub completed: bool,
    /// How long the archive is.
    #[serde(rename = "ArchiveSizeInBytes")]
    pub archive_size: Option<u64>,
    /// The archive's tree hash.
    #[serde(rename = "ArchiveSHA256TreeHash")]
    pub archive_tree_hash: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Jobs {
    job_list: Vec<Job>,
}

/// What a job shall bring.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The archive of this id.
    Archive(&'a str),
    /// The list of all archives, as JSON.
    Inventory,
}

/// Glacier's sum of an archive: SHA-256 of each MiB, then of each two sums, until one is left.
pub struct TreeHash {
    leaves: Vec<[u8; 32]>,
    leaf: Context,
    length: u64,
}

impl std::fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeHash").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Default for TreeHash {
    fn default() -> Self {
        Self { leaves: Vec::new(), leaf: Context::new(&SHA256), length: 0 }
    }
}

impl TreeHash {
    /// The sum of these bytes, in hexadecimal digits.
    #[must_use]
    pub fn of(bytes: &[u8]) -> String {
        let mut sum = Self::default();
        sum.update(bytes);
        sum.finish()
    }

    /// Takes the bytes that come next.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(MIB - self.length % MIB).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.leaf.update(now);
            self.length += now.len() as u64;
            if self.length.is_multiple_of(MIB) {
                let leaf = std::mem::replace(&mut self.leaf, Context::new(&SHA256));
                self.leaves.push(short(leaf.finish().as_ref()));
            }
            bytes = later;
        }
    }

    /// The sum of all, in hexadecimal digits.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.leaves.is_empty() || !self.length.is_multiple_of(MIB) {
            self.leaves.push(short(self.leaf.finish().as_ref()));
        }
        let mut level = self.leaves;
        while level.len() > 1 {
            level = level
                .chunks(2)
                .map(|two| match two {
                    [one, other] => short(digest(&SHA256, &[*one, *other].concat()).as_ref()),
                    rest => rest[0],
                })
                .collect();
        }
        hex(&level[0])
    }
}

fn short(sum: &[u8]) -> [u8; 32] {
    let mut short = [0; 32];
    short.copy_from_slice(sum);
    short
}

impl Vault {
    /// The way to a vault. Nothing is asked yet.
    ///
    /// # Errors
    /// An address or an option that cannot be.
    pub fn new(place: &VaultPlace, options: &StoreOptions) -> std::result::Result<Self, OpenError> {
        let amazon = || format!("https://glacier.{}.amazonaws.com", place.region);
        let origin = place.endpoint.clone().unwrap_or_else(amazon).trim_end_matches('/').to_owned();
        let location = match &place.endpoint {
            Some(_) => format!("{origin}/{}", place.vault),
            None => format!("glacier://{}", place.vault),
        };
        let http = Http::new(location, vec![place.secret_key.clone()], options)?;
        let signer = Signer {
            access_key: place.access_key.clone(),
            secret_key: place.secret_key.clone(),
            region: place.region.clone(),
            service: "glacier".to_owned(),
        };
        Ok(Self { http, signer, origin, path: format!("/-/vaults/{}", encoded(&place.vault)) })
    }

    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.http.location
    }

    /// A signed request.
    fn ask(&self, method: &'static str, path: &str, headers: &[(&'static str, String)], body: &Bytes) -> Ask {
        let path = format!("{}{path}", self.path);
        let ask = Ask::new(method, &self.origin, path, "").with(vec![("x-amz-glacier-version", VERSION.to_owned())]);
        self.signer.sign(ask.with(headers.to_vec()).body(body.clone()), SystemTime::now())
    }

    /// What the answer to a call names in a header.
    fn named(&self, answer: &Answer, header: &str, object: &str) -> Result<String> {
        let name = answer.header(header).map(str::to_owned);
        name.ok_or_else(|| self.http.refusal("write", object, &format!("the answer has no {header}")).into())
    }

    /// Makes the vault where it is missing.
    ///
    /// # Errors
    /// The service's.
    pub fn ensure(&self, watch: &dyn Watch) -> Result<()> {
        self.http.call("create", "", &|| self.ask("PUT", "", &[], &Bytes::new()), &[], watch).map(drop)
    }

    /// Stores a file and gives the archive's id; in parts of `part` bytes, or more where there would be too many.
    ///
    /// # Errors
    /// A description that Glacier cannot take, or a length of parts; the service's, the file's; nobody waits any longer.
    pub fn upload(&self, path: &Path, description: &str, part: u64, watch: &dyn Watch) -> Result<String> {
        let refused = |text: &str| -> NamedError { self.http.refusal("write", description, text).into() };
        let printable = description.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || description.len() > LONGEST_DESCRIPTION {
            return Err(refused("Glacier takes descriptions of 1,024 letters of ASCII at most"));
        }
        if !part.is_power_of_two() || part < MIB {
            return Err(refused("a part has 1 MiB, or 2, or 4, and so on"));
        }
        let described = ("x-amz-archive-description", description.to_owned());
        let file = File::open(path).map_err(NamedError::File)?;
        let length = file.metadata().map_err(NamedError::File)?.len();
        if length <= part {
            let body = piece(&file, 0, length)?;
            let headers = [described, (SUM, TreeHash::of(&body))];
            let answer =
                self.http.call("write", description, &|| self.ask("POST", "/archives", &headers, &body), &[], watch)?;
            watch.moved(length);
            return self.named(&answer, "x-amz-archive-id", description);
        }
        let part = part.max(length.div_ceil(MOST_PARTS).next_power_of_two());
        let headers = [described, ("x-amz-part-size", part.to_string())];
        let begun = self.http.call(
            "write",
            description,
            &|| self.ask("POST", "/multipart-uploads", &headers, &Bytes::new()),
            &[],
            watch,
        )?;
        let upload = self.named(&begun, "x-amz-multipart-upload-id", description)?;
        let upload = format!("/multipart-uploads/{}", encoded(&upload));
        let done = self.parts(&file, length, part, &upload, description, watch);
        if done.is_err() {
            // The error that counts is the first one; what was sent of it goes by itself in a day.
            let _ = self.http.call(
                "write",
                description,
                &|| self.ask("DELETE", &upload, &[], &Bytes::new()),
                &[],
                &super::Patient,
            );
        }
        done
    }

    fn parts(
        &self,
        file: &File,
        length: u64,
        part: u64,
        upload: &str,
        description: &str,
        watch: &dyn Watch,
    ) -> Result<String> {
        let mut whole = TreeHash::default();
        let mut from = 0;
        while from < length {
            going(watch)?;
            let body = piece(file, from, part.min(length - from))?;
            whole.update(&body);
            let next = from + body.len() as u64;
            let headers = [("content-range", format!("bytes {from}-{}/*", next - 1)), (SUM, TreeHash::of(&body))];
            self.http.call("write", description, &|| self.ask("PUT", upload, &headers, &body), &[], watch)?;
            watch.moved(next - from);
            from = next;
        }
        let headers = [("x-amz-archive-size", length.to_string()), (SUM, whole.finish())];
        let answer =
            self.http.call("write", description, &|| self.ask("POST", upload, &headers, &Bytes::new()), &[], watch)?;
        self.named(&answer, "x-amz-archive-id", description)
    }

    /// Removes an archive.
    ///
    /// # Errors
    /// The service's; it knows none of this id.
    pub fn delete(&self, archive: &str, watch: &dyn Watch) -> Result<()> {
        let path = format!("/archives/{}", encoded(archive));
        self.http.call("delete", archive, &|| self.ask("DELETE", &path, &[], &Bytes::new()), &[], watch).map(drop)
    }

    /// Asks for an archive or for the inventory, and gives the job's id.
    ///
    /// # Errors
    /// The service's.
    pub fn start_job(&self, wanted: Wanted<'_>, watch: &dyn Watch) -> Result<String> {
        let (object, body) = match wanted {
            Wanted::Archive(id) => (id, serde_json::json!({ "Type": "archive-retrieval", "ArchiveId": id })),
            Wanted::Inventory => ("", serde_json::json!({ "Type": "inventory-retrieval", "Format": "JSON" })),
        };
        let answer = self.http.call(
            "ask back",
            object,
            &|| self.ask("POST", "/jobs", &[], &body.to_string().into()),
            &[],
            watch,
        )?;
        self.named(&answer, "x-amz-job-id", object)
    }

    /// How a job is going.
    ///
    /// # Errors
    /// The service's; it knows none of this id, or no longer.
    pub fn job(&self, id: &str, watch: &dyn Watch) -> Result<Job> {
        let answer =
            self.http.call("look at", id, &|| self.ask("GET", &job_path(id), &[], &Bytes::new()), &[], watch)?;
        self.read(id, &answer)
    }

    /// All jobs that the service knows.
    ///
    /// # Errors
    /// The service's.
    pub fn jobs(&self, watch: &dyn Watch) -> Result<Vec<Job>> {
        let answer = self.http.call("list", "", &|| self.ask("GET", "/jobs", &[], &Bytes::new()), &[], watch)?;
        self.read::<Jobs>("", &answer).map(|jobs| jobs.job_list)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, object: &str, answer: &Answer) -> Result<T> {
        let told = |error| self.http.refusal("look at", object, &format!("the answer is no job: {error}")).into();
        serde_json::from_slice(&answer.body).map_err(told)
    }

    /// What a job found: these bytes of it, from the first to the last, or all.
    ///
    /// # Errors
    /// The service's; the job is not done yet.
    pub fn output(&self, id: &str, range: Option<(u64, u64)>, watch: &dyn Watch) -> Result<Vec<u8>> {
        let path = format!("{}/output", job_path(id));
        let Some((first, last)) = range else {
            let mut bytes = Vec::new();
            let ask = |headers: Vec<_>| self.ask("GET", &path, &headers, &Bytes::new());
            return match self.http.download(id, &ask, &|ask| ask, &mut bytes, &mut |_| (), watch)? {
                true => Ok(bytes),
                false => Err(self.missing(id)),
            };
        };
        let headers = [("range", format!("bytes={first}-{last}"))];
        Ok(self.http.call("read", id, &|| self.ask("GET", &path, &headers, &Bytes::new()), &[], watch)?.body)
    }

    fn missing(&self, id: &str) -> NamedError {
        self.http.error("read", id, crate::trouble::Trouble::Missing, "", None).into()
    }

    /// Writes the archive that a job brought, and checks that it is what was stored.
    ///
    /// # Errors
    /// The service's; what came is damaged; the output's; nobody waits any longer.
    pub fn download(&self, job: &Job, out: &mut dyn Write, watch: &dyn Watch) -> Result<()> {
        let length = job.archive_size.unwrap_or(0);
        let mut sum = TreeHash::default();
        let mut from = 0;
        while from < length {
            going(watch)?;
            let next = length.min(from + RANGE);
            let bytes = self.output(&job.id, Some((from, next - 1)), watch)?;
            if bytes.len() as u64 != next - from {
                let text = format!("{} bytes came of {}: try again", bytes.len(), next - from);
                return Err(self.http.refusal("read", &job.id, &text).into());
            }
            sum.update(&bytes);
            out.write_all(&bytes).map_err(NamedError::File)?;
            watch.moved(next - from);
            from = next;
        }
        match &job.archive_tree_hash {
            Some(right) if *right != sum.finish() => {
                Err(self.http.refusal("read", &job.id, "what Glacier's job returned is damaged: try again").into())
            }
            _ => Ok(()),
        }
    }
}

/// Goes on where somebody waits still.
fn going(watch: &dyn Watch) -> Result<()> {
    if watch.cancelled() { Err(NamedError::Interrupted) } else { Ok(()) }
}

fn job_path(id: &str) -> String {
    format!("/jobs/{}", encoded(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sums that Amazon's own library is tested with.
    #[test]
    fn the_published_tree_hashes_come_out() {
        for (length, sum) in [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (MIB, "9bc1b2a288b26af7257a36277ae3816a7d4f16e89c1e7e77d0a5c48bad62b360"),
            (2 * MIB, "560c2c9333c719cb00cfdffee3ba293db17f58743cdd1f7e4055373ae6300afa"),
            (3 * MIB, "70239f4f2ead7561f69d48b956b547edef52a1280a93c262c0b582190be7db17"),
            (4 * MIB, "9491cb2ed1d4e7cd53215f4017c23ec4ad21d7050a1e6bb636c4f67e8cddb844"),
            (4 * MIB + 20, "12f3cbd6101b981cde074039f6f728071da8879d6f632de8afc7cdf00661b08f"),
        ] {
            assert_eq!(TreeHash::of(&vec![b'a'; usize::try_from(length).unwrap()]), sum, "{length}");
        }
    }

    #[test]
    fn a_tree_hash_is_the_same_however_the_bytes_come() {
        let bytes: Vec<u8> = (0..3_500_000_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        for step in [1 << 16, 999_983, 1 << 20, 1 << 22] {
            let mut sum = TreeHash::default();
            bytes.chunks(step).for_each(|piece| sum.update(piece));
            assert_eq!(sum.finish(), TreeHash::of(&bytes), "{step}");
        }
    }

    #[test]
    fn a_job_is_read_as_the_service_describes_it() {
        let text = r#"{"JobId": "j", "Action": "ArchiveRetrieval", "StatusCode": "Succeeded", "Completed": true,
            "CreationDate": "2024-02-03T04:05:06.000Z", "CompletionDate": null, "ArchiveSizeInBytes": 7, "Tier": "Bulk"}"#;
        let job: Job = serde_json::from_str(text).unwrap();
        assert_eq!((job.id.as_str(), job.completed, job.archive_size), ("j", true, Some(7)));
        assert_eq!((job.status_code.as_deref(), job.completion_date), (Some("Succeeded"), None));
    }
}
