//! One aligned chunk a thread, so that O_DIRECT neither copies nor allocates.

use std::cell::RefCell;

use gantry_disk::buffer::AlignedBuffer;
use gantry_wire::limits::CHUNK;

thread_local! {
    static BUFFER: RefCell<AlignedBuffer> = RefCell::new(AlignedBuffer::new(CHUNK as usize));
}

/// Lends this thread's buffer, `length` bytes of it (at most a chunk); its content is whatever was there. Not to be
/// nested.
pub fn with_buffer<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| work(&mut buffer[..length]))
}
