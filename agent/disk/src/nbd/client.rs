//! An export of an NBD server as a disk end.

use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::address::Address;
use super::connection::Connection;
use super::fault::Fault;
use super::handshake::Export;
use super::proto::{ERRNOS, can, errno};
use super::tls::Tls;
use crate::end::{Geometry, Identity, ReadAt, SectorSize, WriteAt};
use crate::error::{DiskError, ErrorKind, Result};
use crate::extents::Extent;

/// Connections at most, when the server lets several count as one.
const CONNECTIONS: usize = 8;
/// How often a read is tried, each time on a new connection, and the pause before each further try.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);
/// Unaligned requests and zeroes that must be written go in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// An open export. Its sectors count as 512 bytes, whatever its blocks are: NBD does not tell sector sizes, and a server's
/// minimum block says what the server can do, not what a guest saw. Requests are fitted to blocks here.
#[derive(Debug)]
pub struct NbdDisk {
    address: Address,
    tls: Option<Tls>,
    export: Export,
    identity: Identity,
    /// Opened for writing: then a lost connection is never replaced.
    writable: bool,
    pool: Mutex<Pool>,
    returned: Condvar,
    /// Why nothing counts any more: a writer's first lost connection.
    void: OnceLock<String>,
    /// Held while edges of blocks are read, merged and written, so that two writers of one block do not undo each other.
    edges: Mutex<()>,
}

#[derive(Debug)]
struct Pool {
    idle: Vec<Connection>,
    /// Idle ones and those in use.
    open: usize,
}

impl NbdDisk {
    /// Connects to an export that is only read.
    pub fn open_source(address: &Address) -> Result<Self> {
        Self::open(address, false)
    }

    /// Connects to an export for writing. Refused when it is read-only or cannot flush. NBD has no locks: that nobody else
    /// writes to it is for its owner to see to.
    pub fn open_target(address: &Address) -> Result<Self> {
        let disk = Self::open(address, true)?;
        if disk.export.can(can::READ_ONLY) {
            return Err(disk.unsuitable("opening: the server offers this export for reading only"));
        }
        if !disk.export.can(can::FLUSH) {
            return Err(disk.unsuitable(
                "opening: the server cannot flush this export, so nobody would know when data are on the medium",
            ));
        }
        Ok(disk)
    }

    fn open(address: &Address, writable: bool) -> Result<Self> {
        let name = address.to_string();
        let refuse = |why: String| DiskError::new(ErrorKind::Unsuitable, &name, why);
        let tls = address.tls.then(|| Tls::new(address)).transpose();
        let tls = tls.map_err(|why| refuse(format!("preparing TLS: {why}")))?;
        let first = Connection::open(address, tls.as_ref())
            .map_err(|fault| error_of(&name, "connecting".to_owned(), fault))?;
        let export = first.export().clone();
        // 512 is the sector size; a tail that no whole block covers could never be written.
        let grain = u64::from(export.blocks.minimum.max(SectorSize::B512.bytes()));
        if !export.size.is_multiple_of(grain) {
            return Err(refuse(format!(
                "opening: its size, {} bytes, is no multiple of {grain}",
                export.size
            )));
        }
        Ok(Self {
            address: address.clone(),
            tls,
            export,
            identity: Identity { path: name, ..Identity::default() },
            writable,
            pool: Mutex::new(Pool { idle: vec![first], open: 1 }),
            returned: Condvar::new(),
            void: OnceLock::new(),
            edges: Mutex::new(()),
        })
    }

    fn unsuitable(&self, why: &str) -> DiskError {
        DiskError::new(ErrorKind::Unsuitable, &self.identity.path, why)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that nobody uses; waits while all are in use, each of which ends within its request's limit.
    fn take(&self) -> Result<Connection, Fault> {
        let most = if self.export.can(can::MULTI_CONN) { CONNECTIONS } else { 1 };
        let mut pool = self.pool();
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < most {
                pool.open += 1;
                drop(pool);
                return self.dial().inspect_err(|_| self.gone());
            }
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One more connection to what must be the very export of the first.
    fn dial(&self) -> Result<Connection, Fault> {
        let connection = Connection::open(&self.address, self.tls.as_ref())?;
        if *connection.export() != self.export {
            return Err(Fault::Unusable("the server now describes another export than at first".to_owned()));
        }
        Ok(connection)
    }

    fn give_back(&self, connection: Connection) {
        self.pool().idle.push(connection);
        self.returned.notify_one();
    }

    fn gone(&self) {
        self.pool().open -= 1;
        self.returned.notify_one();
    }

    /// Runs one request. A reader whose connection breaks tries again on another; a writer's end is void from then on.
    fn request<T>(&self, mut call: impl FnMut(&mut Connection) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut tries = 0;
        loop {
            if let Some(why) = self.void.get() {
                let text = format!("{why} (earlier); nothing since the last good flush counts: start again");
                return Err(Fault::Unusable(text));
            }
            let fault = match self.take() {
                Err(fault) => fault,
                Ok(mut connection) => match call(&mut connection) {
                    outcome @ (Ok(_) | Err(Fault::Refused { .. })) => {
                        self.give_back(connection);
                        return outcome;
                    }
                    Err(fault) => {
                        drop(connection);
                        self.gone();
                        fault
                    }
                },
            };
            tries += 1;
            if self.writable {
                self.void.get_or_init(|| fault.to_string());
                return Err(fault);
            }
            if tries == TRIES || !matches!(fault, Fault::Lost(_)) {
                return Err(fault);
            }
            std::thread::sleep(PAUSE * tries);
        }
    }

    /// A fault with its place: the export, what was done, and the byte that the server names, else the one asked for.
    fn error(&self, verb: &str, offset: u64, length: u64, fault: Fault) -> DiskError {
        let at = match &fault {
            Fault::Refused { offset: Some(named), .. } => *named,
            _ => offset,
        };
        error_of(&self.identity.path, format!("{verb} {length} bytes"), fault).at(at)
    }

    fn aligned(&self, offset: u64, length: u64) -> bool {
        let block = u64::from(self.export.blocks.minimum);
        offset.is_multiple_of(block) && length.is_multiple_of(block)
    }

    /// A buffer over the whole blocks that `[offset, offset + length)` touches, and where it begins.
    fn window(&self, offset: u64, length: usize) -> (u64, Vec<u8>) {
        let block = u64::from(self.export.blocks.minimum);
        let start = offset / block * block;
        let end = (offset + length as u64).div_ceil(block) * block;
        (start, vec![0; (end - start) as usize])
    }

    /// Longest read or write, in bytes.
    fn longest(&self) -> usize {
        self.export.blocks.maximum as usize
    }

    fn read_aligned(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        for (i, piece) in buffer.chunks_mut(self.longest()).enumerate() {
            let at = offset + (i * self.longest()) as u64;
            self.request(|connection| connection.read(at, piece))
                .map_err(|fault| self.error("reading", at, piece.len() as u64, fault))?;
        }
        Ok(())
    }

    fn write_aligned(&self, offset: u64, data: &[u8]) -> Result<()> {
        for (i, piece) in data.chunks(self.longest()).enumerate() {
            let at = offset + (i * self.longest()) as u64;
            self.request(|connection| connection.write(at, piece))
                .map_err(|fault| self.error("writing", at, piece.len() as u64, fault))?;
        }
        Ok(())
    }

    /// Zeroes whole blocks by the server's own means; false when it has none.
    fn zero_aligned(&self, offset: u64, length: u64) -> Result<bool> {
        if !self.export.can(can::WRITE_ZEROES) {
            return Ok(false);
        }
        let mut at = offset;
        while at < offset + length {
            let step = (offset + length - at).min(self.longest() as u64);
            match self.request(|connection| connection.zero(at, step as u32)) {
                Ok(()) => at += step,
                Err(Fault::Refused { error: errno::ENOTSUP, .. }) => return Ok(false),
                Err(fault) => return Err(self.error("zeroing", at, step, fault)),
            }
        }
        Ok(true)
    }
}

/// An error number of the server's stays one, so that a bad sector behind it is known for one.
fn error_of(name: &str, what: String, fault: Fault) -> DiskError {
    match fault {
        Fault::Refused { error, text, .. } if ERRNOS.contains(&error) => {
            let source = std::io::Error::from_raw_os_error(error as i32);
            DiskError::io(name, format!("{what}: the server refuses{text}"), source)
        }
        Fault::Lost(_) | Fault::Refused { .. } => {
            DiskError::io(name, what, std::io::Error::other(fault.to_string()))
        }
        Fault::Unusable(why) => DiskError::new(ErrorKind::Unsuitable, name, format!("{what}: {why}")),
    }
}

impl Geometry for NbdDisk {
    fn size(&self) -> u64 {
        self.export.size
    }
    fn sector_size(&self) -> SectorSize {
        SectorSize::B512
    }
    fn identity(&self) -> &Identity {
        &self.identity
    }
}

impl ReadAt for NbdDisk {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len() as u64, "reading")?;
        if self.aligned(offset, buffer.len() as u64) {
            return self.read_aligned(offset, buffer);
        }
        for (i, piece) in buffer.chunks_mut(PIECE).enumerate() {
            let at = offset + (i * PIECE) as u64;
            let (start, mut blocks) = self.window(at, piece.len());
            self.read_aligned(start, &mut blocks)?;
            piece.copy_from_slice(&blocks[(at - start) as usize..][..piece.len()]);
        }
        Ok(())
    }

    /// What base:allocation flags as zero; everything else, and everything on a server without it, is data.
    fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.check(offset, length, "asking for the extents of")?;
        // The protocol's lengths have 32 bits, and ranges are whole blocks as in reads; offsets of `walk` always are.
        let block = u64::from(self.export.blocks.minimum);
        let length = length.min(1 << 31);
        if self.export.allocation.is_none() || !offset.is_multiple_of(block) || !length.is_multiple_of(block)
        {
            return Ok(vec![Extent { offset, length, zero: false }]);
        }
        match self.request(|connection| connection.status(offset, length as u32)) {
            // No knowledge is no reason to stop: it is read.
            Err(Fault::Refused { .. }) => Ok(vec![Extent { offset, length, zero: false }]),
            outcome => {
                outcome.map_err(|fault| self.error("asking for the extents of", offset, length, fault))
            }
        }
    }
}

impl WriteAt for NbdDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len() as u64, "writing")?;
        if self.aligned(offset, data.len() as u64) {
            return self.write_aligned(offset, data);
        }
        let _edges = self.edges.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, piece) in data.chunks(PIECE).enumerate() {
            let at = offset + (i * PIECE) as u64;
            let (start, mut blocks) = self.window(at, piece.len());
            self.read_aligned(start, &mut blocks)?;
            blocks[(at - start) as usize..][..piece.len()].copy_from_slice(piece);
            self.write_aligned(start, &blocks)?;
        }
        Ok(())
    }

    /// WRITE_ZEROES: the server may punch, and promises that zeroes are read. TRIM promises nothing and is never used.
    fn zero_at(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length, "zeroing")?;
        if self.aligned(offset, length) && self.zero_aligned(offset, length)? {
            return Ok(());
        }
        let zeroes = vec![0; (length as usize).min(PIECE)];
        let mut at = offset;
        while at < offset + length {
            let step = ((offset + length - at) as usize).min(zeroes.len());
            self.write_at(at, &zeroes[..step])?;
            at += step as u64;
        }
        Ok(())
    }

    /// One FLUSH: there are several connections only where the server says that it covers them all.
    fn flush(&self) -> Result<()> {
        self.request(Connection::flush)
            .map_err(|fault| error_of(&self.identity.path, "flushing".to_owned(), fault))
    }
}
