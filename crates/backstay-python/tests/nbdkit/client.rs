//! A client that says exactly what a test wants.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const OPTION_MAGIC: u64 = 0x4948_4156_454F_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

pub(crate) const EXPORT_NAME: u32 = 1;
pub(crate) const ABORT: u32 = 2;
pub(crate) const LIST: u32 = 3;
pub(crate) const INFO: u32 = 6;
pub(crate) const GO: u32 = 7;
pub(crate) const STRUCTURED_REPLY: u32 = 8;
pub(crate) const LIST_META_CONTEXT: u32 = 9;
pub(crate) const SET_META_CONTEXT: u32 = 10;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const FUA: u16 = 1;
pub(crate) const NO_HOLE: u16 = 2;
pub(crate) const DF: u16 = 4;
pub(crate) const REQ_ONE: u16 = 8;
pub(crate) const FAST_ZERO: u16 = 16;

pub(crate) const ACK: u32 = 1;
pub(crate) const ERR_UNSUP: u32 = 0x8000_0001;
pub(crate) const ERR_INVALID: u32 = 0x8000_0003;
pub(crate) const ERR_UNKNOWN: u32 = 0x8000_0006;
pub(crate) const ERR_PLATFORM: u32 = 0x8000_0004;

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) size: u64,
    pub(crate) flags: u16,
    structured: bool,
    cookie: u64,
}

/// A reply to an option: type and data.
pub(crate) type Reply = (u32, Vec<u8>);

impl Client {
    /// Connects and answers the greeting.
    pub(crate) fn connect(path: &Path) -> Self {
        Self::try_connect(path).unwrap()
    }

    pub(crate) fn try_connect(path: &Path) -> io::Result<Self> {
        Self::greet(UnixStream::connect(path)?)
    }

    pub(crate) fn greet(stream: UnixStream) -> io::Result<Self> {
        Self::greet_with(stream, 3)
    }

    /// Answers the greeting with these flags.
    pub(crate) fn greet_with(mut stream: UnixStream, flags: u32) -> io::Result<Self> {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        assert_eq!(&greeting[16..], [0, 3]);
        stream.write_all(&flags.to_be_bytes())?;
        Ok(Self { stream, size: 0, flags: 0, structured: false, cookie: 0 })
    }

    pub(crate) fn send_option(&mut self, option: u32, data: &[u8]) {
        let mut message = OPTION_MAGIC.to_be_bytes().to_vec();
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        message.extend_from_slice(data);
        self.stream.write_all(&message).unwrap();
    }

    pub(crate) fn reply(&mut self, option: u32) -> io::Result<Reply> {
        let mut head = [0; 20];
        self.stream.read_exact(&mut head)?;
        assert_eq!(head[..8], REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes());
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let mut data = vec![0; number(&head[16..20]) as usize];
        self.stream.read_exact(&mut data)?;
        Ok((number(&head[12..16]), data))
    }

    /// All replies to an option, up to the one that ends it.
    pub(crate) fn option(&mut self, option: u32, data: &[u8]) -> io::Result<Vec<Reply>> {
        self.send_option(option, data);
        let mut replies = Vec::new();
        loop {
            let reply = self.reply(option)?;
            let last = reply.0 == 1 || reply.0 & 0x8000_0000 != 0;
            replies.push(reply);
            if last {
                return Ok(replies);
            }
        }
    }

    /// INFO or GO; the infos by number, or the error's number (0: the connection was closed).
    pub(crate) fn ask(&mut self, option: u32, name: &[u8], wanted: &[u16]) -> Result<Vec<(u16, Vec<u8>)>, u32> {
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&u16::try_from(wanted.len()).unwrap().to_be_bytes());
        wanted.iter().for_each(|info| data.extend_from_slice(&info.to_be_bytes()));
        let mut replies = self.option(option, &data).map_err(|_| 0_u32)?;
        let last = replies.pop().unwrap();
        if last.0 != 1 {
            return Err(last.0);
        }
        Ok(replies
            .into_iter()
            .map(|(kind, data)| {
                assert_eq!(kind, 3);
                (u16::from_be_bytes([data[0], data[1]]), data[2..].to_vec())
            })
            .collect())
    }

    pub(crate) fn go(&mut self, name: &[u8], wanted: &[u16]) -> Result<Vec<(u16, Vec<u8>)>, u32> {
        let infos = self.ask(GO, name, wanted)?;
        assert_eq!(infos[0].0, 0);
        self.size = u64::from_be_bytes(infos[0].1[..8].try_into().unwrap());
        self.flags = u16::from_be_bytes(infos[0].1[8..].try_into().unwrap());
        Ok(infos)
    }

    /// Names and descriptions of a list, or the error's number.
    pub(crate) fn list(&mut self) -> Result<Vec<(String, String)>, u32> {
        let mut replies = self.option(LIST, &[]).map_err(|_| 0_u32)?;
        let last = replies.pop().unwrap();
        if last.0 != 1 {
            return Err(last.0);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(replies
            .iter()
            .map(|(_, data)| {
                let length = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
                (text(&data[4..4 + length]), text(&data[4 + length..]))
            })
            .collect())
    }

    pub(crate) fn structured(&mut self) {
        assert_eq!(self.option(STRUCTURED_REPLY, &[]).unwrap(), [(1, Vec::new())]);
        self.structured = true;
    }

    /// Selects `base:allocation` for an export.
    pub(crate) fn meta_context(&mut self, name: &[u8]) {
        let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&1_u32.to_be_bytes());
        data.extend_from_slice(&15_u32.to_be_bytes());
        data.extend_from_slice(b"base:allocation");
        assert_eq!(self.option(SET_META_CONTEXT, &data).unwrap().len(), 2);
    }

    pub(crate) fn send(&mut self, command: u16, flags: u16, offset: u64, count: u32, data: &[u8]) -> u64 {
        self.cookie += 1;
        let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
        message.extend_from_slice(&flags.to_be_bytes());
        message.extend_from_slice(&command.to_be_bytes());
        message.extend_from_slice(&self.cookie.to_be_bytes());
        message.extend_from_slice(&offset.to_be_bytes());
        message.extend_from_slice(&count.to_be_bytes());
        message.extend_from_slice(data);
        self.stream.write_all(&message).unwrap();
        self.cookie
    }

    /// A simple reply: cookie and error; a read's data is left in the stream.
    pub(crate) fn answer(&mut self) -> io::Result<(u64, u32)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        assert_eq!(number(&head[..4]), 0x6744_6698);
        Ok((u64::from_be_bytes(head[8..].try_into().unwrap()), number(&head[4..8])))
    }

    /// A request that is answered simply; 0: success.
    pub(crate) fn request(&mut self, command: u16, flags: u16, offset: u64, count: u32, data: &[u8]) -> u32 {
        let cookie = self.send(command, flags, offset, count, data);
        let (answered, error) = self.answer().unwrap();
        assert_eq!(answered, cookie);
        error
    }

    pub(crate) fn read(&mut self, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
        match self.request(READ, 0, offset, count, &[]) {
            0 => {
                let mut data = vec![0; count as usize];
                self.stream.read_exact(&mut data).unwrap();
                Ok(data)
            }
            error => Err(error),
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> u32 {
        self.request(WRITE, 0, offset, u32::try_from(data.len()).unwrap(), data)
    }

    /// One structured chunk: type and payload.
    pub(crate) fn chunk(&mut self) -> (u16, Vec<u8>) {
        let mut head = [0; 20];
        self.stream.read_exact(&mut head).unwrap();
        assert_eq!(head[..4], 0x668e_33ef_u32.to_be_bytes());
        assert_eq!(head[4..6], [0, 1]);
        let mut payload = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        (u16::from_be_bytes([head[6], head[7]]), payload)
    }

    /// Block status: length and status of each extent, or the error.
    pub(crate) fn block_status(&mut self, flags: u16, offset: u64, count: u32) -> Result<Vec<(u32, u32)>, u32> {
        self.send(BLOCK_STATUS, flags, offset, count, &[]);
        let (kind, payload) = self.chunk();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        if kind != 5 {
            assert_eq!(kind, 0x8001);
            return Err(number(&payload[..4]));
        }
        Ok(payload[4..].chunks(8).map(|pair| (number(&pair[..4]), number(&pair[4..]))).collect())
    }

    /// Leaves politely and waits until the server has closed.
    pub(crate) fn leave(mut self) {
        self.send(DISC, 0, 0, 0, &[]);
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
    }

    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}
