//! Who is here, and who gives way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::nbd::wire::Socket;

/// A client that has said nothing for this long gives way to a newcomer when the house is full.
const QUIET: Duration = Duration::from_secs(10);

/// The clients of a server.
#[derive(Debug)]
pub(super) struct House {
    most: usize,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    next: u64,
    /// By number: a handle to hang up with, and since when there is nothing to do for it (`None`: it is being served).
    here: BTreeMap<u64, (Socket, Option<Instant>)>,
}

/// A client's place; given up when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    house: Arc<House>,
    number: u64,
}

impl House {
    pub(super) fn new(most: usize) -> Self {
        Self { most, guests: Mutex::default() }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for the client behind `handle`; `None` when the house is full of clients that are at work.
    pub(super) fn enter(self: &Arc<Self>, handle: Socket) -> Option<Seat> {
        let mut guests = self.guests();
        if guests.here.len() >= self.most {
            let quiet = |(number, (_, since)): (&u64, &(Socket, Option<Instant>))| Some(((*since)?, *number));
            let (since, number) = guests.here.iter().filter_map(quiet).min()?;
            if since.elapsed() < QUIET {
                return None;
            }
            if let Some((socket, _)) = guests.here.remove(&number) {
                socket.hang_up();
            }
        }
        let number = guests.next;
        guests.next += 1;
        guests.here.insert(number, (handle, Some(Instant::now())));
        Some(Seat { house: Arc::clone(self), number })
    }
}

impl Seat {
    /// Something is being done for this client, or no longer.
    pub(super) fn busy(&self, busy: bool) {
        if let Some((_, since)) = self.house.guests().here.get_mut(&self.number) {
            *since = (!busy).then(Instant::now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.house.guests().here.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_the_quiet_give_way() {
        let house = Arc::new(House::new(2));
        let guest = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (house.enter(Socket::Unix(ours)), theirs)
        };
        let ((one, mut one_end), (two, _two_end)) = (guest(), guest());
        let two = two.unwrap();
        assert!(guest().0.is_none(), "both came just now");
        two.busy(true);
        let long_ago = Instant::now().checked_sub(QUIET).unwrap();
        for (_, since) in house.guests().here.values_mut() {
            *since = since.map(|_| long_ago);
        }
        let third = guest();
        assert!(third.0.is_some(), "the quiet one gave way");
        assert_eq!(one_end.read(&mut [0; 1]).unwrap(), 0, "and was hung up on");
        drop(one);
        assert_eq!(house.guests().here.len(), 2);
        third.0.unwrap().busy(true);
        assert!(guest().0.is_some(), "a place became free");
    }
}
