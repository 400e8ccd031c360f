//! One gzip stream by several threads: blocks are deflated side by side, each with the 32 KiB in front of it as its
//! dictionary, and joined by empty stored blocks. Every reader sees a single ordinary member, and the same bytes give the
//! same stream however many threads there were.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use flate2::read::MultiGzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::control::{Control, Watched};
use crate::error::{About, Result};
use crate::output::Output;

/// Bytes that a thread deflates at a time.
const BLOCK: usize = 512 << 10;
/// How far back deflate looks.
const WINDOW: usize = 32 << 10;
/// No flags, no name, no time: the same bytes always.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// One block to deflate.
struct Task {
    block: Vec<u8>,
    before: Option<Arc<Vec<u8>>>,
    last: bool,
    answer: Sender<io::Result<Done>>,
}

/// One block deflated.
struct Done {
    block: Vec<u8>,
    deflated: Vec<u8>,
    crc: Crc,
}

/// Writes what it is given as one gzip stream.
#[derive(Debug)]
pub struct GzipWriter<W> {
    out: W,
    block: Vec<u8>,
    /// The end of the block before.
    before: Option<Arc<Vec<u8>>>,
    tasks: Option<Sender<Task>>,
    threads: Vec<JoinHandle<()>>,
    waiting: VecDeque<Receiver<io::Result<Done>>>,
    at_most: usize,
    spare: Vec<Vec<u8>>,
    crc: Crc,
}

impl<W: Write> GzipWriter<W> {
    /// Begins a stream, with as many threads as there are processors.
    ///
    /// # Errors
    /// The output's; no thread can be had.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 16);
        let (tasks, work) = bounded::<Task>(count);
        let mut threads = Vec::new();
        for number in 0..count {
            let work = work.clone();
            let thread = std::thread::Builder::new().name(format!("gzip-{number}")).spawn(move || deflate_all(&work));
            match thread {
                Ok(thread) => threads.push(thread),
                // A thread that cannot be had is one that we do without.
                Err(_) if number > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK),
            before: None,
            tasks: Some(tasks),
            threads,
            waiting: VecDeque::new(),
            at_most: 2 * count + 1,
            spare: Vec::new(),
            crc: Crc::new(),
        })
    }

    /// Hands the block to the threads.
    fn send(&mut self, last: bool) -> io::Result<()> {
        while self.waiting.len() >= self.at_most {
            self.take()?;
        }
        let fresh = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
        let block = std::mem::replace(&mut self.block, fresh);
        let before = self.before.take();
        if !last {
            self.before = Some(Arc::new(block[block.len().saturating_sub(WINDOW)..].to_vec()));
        }
        let (answer, answered) = bounded(1);
        let task = Task { block, before, last, answer };
        let sent = self.tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok());
        if !sent {
            return Err(io::Error::other("the threads that compress are gone"));
        }
        self.waiting.push_back(answered);
        Ok(())
    }

    /// Writes the next block in order.
    fn take(&mut self) -> io::Result<()> {
        let Some(answered) = self.waiting.pop_front() else { return Ok(()) };
        let done = answered.recv().map_err(|_| io::Error::other("a thread that compresses is gone"))??;
        self.crc.combine(&done.crc);
        self.out.write_all(&done.deflated)?;
        let mut block = done.block;
        block.clear();
        self.spare.push(block);
        Ok(())
    }

    /// Ends the stream and gives the output back.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        self.send(true)?;
        while !self.waiting.is_empty() {
            self.take()?;
        }
        let sum = self.crc.sum();
        let amount = self.crc.amount();
        self.out.write_all(&sum.to_le_bytes())?;
        self.out.write_all(&amount.to_le_bytes())?;
        self.out.flush()?;
        self.tasks = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(io::Error::other("a thread that compresses failed"));
            }
        }
        Ok(self.out)
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..count]);
        if self.block.len() == BLOCK {
            self.send(false)?;
        }
        Ok(count)
    }

    /// What is not a whole block yet stays: an early end of it would cost compression.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A thread's work until there is no more.
fn deflate_all(work: &Receiver<Task>) {
    let mut compress = Compress::new(Compression::new(6), false);
    for task in work {
        let done = deflate(&mut compress, task.block, task.before.as_deref(), task.last);
        // Nobody waits any more: the stream was given up.
        let _ = task.answer.send(done);
    }
}

fn deflate(compress: &mut Compress, block: Vec<u8>, before: Option<&Vec<u8>>, last: bool) -> io::Result<Done> {
    let failed = |error| io::Error::other(format!("cannot compress: {error}"));
    compress.reset();
    if let Some(before) = before {
        compress.set_dictionary(before).map_err(failed)?;
    }
    let mut crc = Crc::new();
    crc.update(&block);
    let mut deflated = Vec::with_capacity(block.len() / 2 + 4096);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut at = 0;
    loop {
        let start = compress.total_in();
        let status = compress.compress_vec(&block[at..], &mut deflated, flush).map_err(failed)?;
        at += usize::try_from(compress.total_in() - start).unwrap_or(usize::MAX);
        let finished = match status {
            Status::StreamEnd => true,
            Status::Ok | Status::BufError => !last && at == block.len() && deflated.len() < deflated.capacity(),
        };
        if finished {
            return Ok(Done { block, deflated, crc });
        }
        deflated.reserve(deflated.capacity() / 2 + 4096);
    }
}

/// Writes a file's bytes in gzip; gives the length of the result.
///
/// # Errors
/// The system's; nothing is at `out` then. [`crate::Error::Interrupted`].
pub fn gzip_file(source: &Path, out: &Path, control: &Control) -> Result<u64> {
    control.begin("Compressing");
    let mut input = open(source, control)?;
    let output = Output::create(out)?;
    let mut writer = GzipWriter::new(output).about(out)?;
    copy(&mut input, source, &mut writer, out)?;
    writer.finish().about(out)?.finish()
}

/// Writes what a gzip file holds, all its members; gives the length of the result.
///
/// # Errors
/// As [`gzip_file`]; the file is not whole, or no gzip.
pub fn gunzip_file(source: &Path, out: &Path, control: &Control) -> Result<u64> {
    control.begin("Decompressing");
    let input = open(source, control)?;
    let mut output = Output::create(out)?;
    copy(&mut MultiGzDecoder::new(io::BufReader::with_capacity(256 << 10, input)), source, &mut output, out)?;
    output.finish()
}

/// Opens a file whose bytes are counted as they are read.
pub(crate) fn open<'a>(source: &Path, control: &'a Control) -> Result<Watched<'a, std::fs::File>> {
    let file = std::fs::File::open(source).about(source)?;
    control.expect(file.metadata().about(source)?.len());
    Ok(Watched::new(file, control))
}

/// Copies all, and says which side failed.
pub(crate) fn copy(input: &mut dyn Read, from: &Path, output: &mut dyn Write, to: &Path) -> Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut copied = 0;
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).about(from),
        };
        output.write_all(&buffer[..read]).about(to)?;
        copied += read as u64;
    }
}
