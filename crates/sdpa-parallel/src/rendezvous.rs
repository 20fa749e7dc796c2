//! How processes find one another, meet, and hear of failures: a TCP connection of each rank to rank 0.
//!
//! It carries a few bytes. It stays open as long as the ranks work together, because the end of a process closes it: so a
//! killed rank is known to all the others in the time of a packet. A process that is stopped closes nothing. Therefore each
//! rank is heard of several times per deadline, by a thread that does nothing else, and who was not heard of can be named.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::communicator::{Control, Failure, Failures};
use crate::error::{Error, Result};

/// Which process this is, and where rank 0 can be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which rank, from 0.
    pub rank: usize,
    /// How many ranks there are.
    pub ranks: usize,
    /// Which GPU of its host.
    pub gpu: usize,
    /// Rank 0's host.
    pub address: String,
    /// The port on which rank 0 listens.
    pub port: u16,
}

impl Place {
    /// Reads what torchrun sets: `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR` and `MASTER_PORT`. torchrun itself listens
    /// on `MASTER_PORT`, so rank 0 takes the next port.
    ///
    /// # Errors
    /// [`Error::Rendezvous`] names the variable that is missing or is no number.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let wrong = |name: &str, reason: String| Error::Rendezvous {
            doing: format!("reading {name}"),
            reason: format!("{reason}; torchrun sets it, or set it yourself"),
        };
        let text = |name: &str| variable(name).ok_or_else(|| wrong(name, "it is not set".to_owned()));
        let number = |name: &str| {
            let found = text(name)?;
            found.parse::<usize>().map_err(|_| wrong(name, format!("{found:?} is no number")))
        };
        let (rank, ranks) = (number("RANK")?, number("WORLD_SIZE")?);
        if rank >= ranks {
            return Err(wrong("RANK", format!("{rank} is not below WORLD_SIZE, which is {ranks}")));
        }
        let gpu = match variable("LOCAL_RANK") {
            Some(_) => number("LOCAL_RANK")?,
            None => rank,
        };
        let port = number("MASTER_PORT")?;
        let next = u16::try_from(port + 1).map_err(|_| wrong("MASTER_PORT", format!("{port} has no next port")))?;
        Ok(Self { rank, ranks, gpu, address: text("MASTER_ADDR")?, port: next })
    }
}

/// Kinds of messages; each is followed by a rank, a length and that many bytes.
const HELLO: u8 = 1;
const TOLD: u8 = 2;
const ARRIVED: u8 = 3;
const RELEASED: u8 = 4;
const FAILED: u8 = 5;
const LOST: u8 = 6;
const BYE: u8 = 7;
const ALIVE: u8 = 8;

/// How often a rank is heard of within a deadline, and how often it may be missed before it counts as unheard.
const SIGNS_PER_DEADLINE: u32 = 12;
const MISSED_SIGNS: u32 = 4;

/// The longest and the shortest time between two signs of life.
const SIGNS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// More than any message has: what is longer comes from something else that found the port.
const LONGEST: usize = 1 << 16;

struct Message {
    kind: u8,
    rank: usize,
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u8, rank: usize, bytes: &[u8]) -> Self {
        Self { kind, rank, bytes: bytes[..bytes.len().min(LONGEST)].to_vec() }
    }

    fn write(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut all = vec![self.kind];
        all.extend((self.rank as u32).to_le_bytes());
        all.extend((self.bytes.len() as u32).to_le_bytes());
        all.extend(&self.bytes);
        stream.write_all(&all)
    }

    fn read(mut stream: &TcpStream) -> std::io::Result<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let length = number(5);
        if length > LONGEST {
            return Err(std::io::Error::other("this is no rank"));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes)?;
        Ok(Self { kind: head[0], rank: number(1), bytes })
    }
}

/// One process's connection to the others.
pub struct Rendezvous {
    rank: usize,
    ranks: usize,
    deadline: Duration,
    shared: Arc<Shared>,
}

struct Shared {
    failures: Failures,
    /// Of rank 0, those of all others by rank; of the others, the one to rank 0. A stream is written by one at a time.
    links: Vec<(usize, Mutex<TcpStream>)>,
    barrier: Mutex<Barrier>,
    changed: Condvar,
    signs: Mutex<Signs>,
    /// Between two signs of life.
    interval: Duration,
}

/// Signs of life.
struct Signs {
    /// When each rank at the other end of a link was last heard of.
    heard: Vec<(usize, Instant)>,
    /// Whom rank 0 had not heard of when it was last heard.
    told: Vec<usize>,
    /// Set when no more are given.
    ended: bool,
}

#[derive(Default)]
struct Barrier {
    /// How often each rank came; kept by rank 0.
    arrivals: Vec<u64>,
    /// How often all ranks had come; kept by rank 0.
    complete: u64,
    /// How often this rank may go on.
    released: u64,
    /// How often this rank came.
    own: u64,
}

impl Rendezvous {
    /// Connects all ranks, and tells all of them what rank 0 makes.
    ///
    /// # Errors
    /// [`Error::Rendezvous`] if the others are not there before the deadline, or what `make` fails with.
    pub fn join(place: &Place, make: impl FnOnce() -> Result<Vec<u8>>, deadline: Duration) -> Result<(Self, Vec<u8>)> {
        Self::join_by(Instant::now() + deadline, place, make, deadline)
    }

    /// The same with another end for the meeting than the deadline that holds from then on.
    pub(crate) fn join_by(
        end: Instant,
        place: &Place,
        make: impl FnOnce() -> Result<Vec<u8>>,
        deadline: Duration,
    ) -> Result<(Self, Vec<u8>)> {
        let (links, told) = match place.rank {
            0 => {
                let told = make()?;
                (gather(place, &told, end)?, told)
            }
            _ => {
                let (link, told) = meet(place, end)?;
                (vec![(0, link)], told)
            }
        };
        let readers = links.iter().map(|(rank, link)| Ok((*rank, link.try_clone()?)));
        let readers = readers.collect::<std::io::Result<Vec<_>>>().map_err(|error| failed(place, &error))?;
        let barrier = Barrier { arrivals: vec![0; place.ranks], ..Barrier::default() };
        let heard = readers.iter().map(|(rank, _)| (*rank, Instant::now())).collect();
        let shared = Arc::new(Shared {
            failures: Failures::default(),
            links: links.into_iter().map(|(rank, link)| (rank, Mutex::new(link))).collect(),
            barrier: Mutex::new(barrier),
            changed: Condvar::new(),
            signs: Mutex::new(Signs { heard, told: Vec::new(), ended: false }),
            interval: (deadline / SIGNS_PER_DEADLINE).clamp(SIGNS[0], SIGNS[1]),
        });
        let is_root = place.rank == 0;
        for (rank, link) in readers {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.listen(rank, &link, is_root));
        }
        let giver = Arc::clone(&shared);
        let rank = place.rank;
        std::thread::spawn(move || giver.give_signs(rank));
        let (rank, ranks) = (place.rank, place.ranks);
        Ok((Self { rank, ranks, deadline, shared }, told))
    }
}

fn failed(place: &Place, error: &dyn std::fmt::Display) -> Error {
    let Place { rank, ranks, address, port, .. } = place;
    Error::Rendezvous {
        doing: format!("rank {rank} of {ranks} meets the others at {address}:{port}"),
        reason: error.to_string(),
    }
}

/// What a connection between ranks is set to.
fn settle(link: &TcpStream, end: Option<Instant>) -> std::io::Result<()> {
    link.set_nonblocking(false)?;
    link.set_nodelay(true)?;
    let left = end.map(|end| end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
    link.set_read_timeout(left)?;
    link.set_write_timeout(Some(Duration::from_secs(5)))
}

/// Rank 0 waits for all the others, and answers when all are there.
fn gather(place: &Place, told: &[u8], end: Instant) -> Result<Vec<(usize, TcpStream)>> {
    let listener = TcpListener::bind((place.address.as_str(), place.port)).map_err(|error| failed(place, &error))?;
    listener.set_nonblocking(true).map_err(|error| failed(place, &error))?;
    let mut links: Vec<(usize, TcpStream)> = Vec::new();
    while links.len() + 1 < place.ranks {
        let link = match listener.accept() {
            Ok((link, _)) => link,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > end {
                    let missing: Vec<String> = (1..place.ranks)
                        .filter(|rank| links.iter().all(|(other, _)| other != rank))
                        .map(|rank| rank.to_string())
                        .collect();
                    return Err(failed(place, &format!("rank {} did not come", missing.join(", "))));
                }
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => return Err(failed(place, &error)),
        };
        // Whatever else found the port is let go.
        let hello = settle(&link, Some(end)).and_then(|()| Message::read(&link));
        let Ok(Message { kind: HELLO, rank, bytes }) = hello else { continue };
        let ranks = bytes.as_slice().try_into().map_or(0, u32::from_le_bytes) as usize;
        if ranks != place.ranks || rank == 0 || rank >= place.ranks || links.iter().any(|(other, _)| *other == rank) {
            let reason = format!("another process came as rank {rank} of {ranks}");
            return Err(failed(place, &reason));
        }
        links.push((rank, link));
    }
    links.sort_by_key(|(rank, _)| *rank);
    for (_, link) in &links {
        let answered = Message::new(TOLD, 0, told).write(link).and_then(|()| settle(link, None));
        answered.map_err(|error| failed(place, &error))?;
    }
    Ok(links)
}

/// Another rank looks for rank 0 until it listens.
fn meet(place: &Place, end: Instant) -> Result<(TcpStream, Vec<u8>)> {
    let attempt = || -> std::io::Result<(TcpStream, Vec<u8>)> {
        let mut addresses = (place.address.as_str(), place.port).to_socket_addrs()?;
        let address = addresses.next().ok_or_else(|| std::io::Error::other("the host has no address"))?;
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let link = TcpStream::connect_timeout(&address, left)?;
        settle(&link, Some(end))?;
        Message::new(HELLO, place.rank, &(place.ranks as u32).to_le_bytes()).write(&link)?;
        let answer = Message::read(&link)?;
        if answer.kind != TOLD {
            return Err(std::io::Error::other("what listens there is not rank 0"));
        }
        settle(&link, None)?;
        Ok((link, answer.bytes))
    };
    loop {
        match attempt() {
            Ok(met) => return Ok(met),
            Err(error) if Instant::now() > end => return Err(failed(place, &error)),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The news of a failure, and whose it is.
fn failure_message(failure: &Failure) -> (Message, usize) {
    match failure {
        Failure::Failed { rank, reason } => (Message::new(FAILED, *rank, reason.as_bytes()), *rank),
        Failure::Lost { rank } => (Message::new(LOST, *rank, &[]), *rank),
    }
}

impl Shared {
    fn barrier(&self) -> MutexGuard<'_, Barrier> {
        self.barrier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends to all links but one. A link that does not take it is found out by its reader.
    fn tell(&self, message: &Message, but: Option<usize>) {
        for (_, link) in self.links.iter().filter(|(rank, _)| Some(*rank) != but) {
            let link = link.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = message.write(&link);
        }
    }

    fn signs(&self) -> MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives signs of life until the rank leaves. Those of rank 0 say whom it has not heard of.
    fn give_signs(&self, rank: usize) {
        loop {
            if self.signs().ended {
                return;
            }
            let unheard: Vec<u8> = self.unheard().into_iter().flat_map(|rank| (rank as u32).to_le_bytes()).collect();
            self.tell(&Message::new(ALIVE, rank, if rank == 0 { &unheard } else { &[] }), None);
            std::thread::sleep(self.interval);
        }
    }

    /// Ranks that have missed some signs of life: at the other end of a link, or by rank 0's word, unless that is missed itself.
    fn unheard(&self) -> Vec<usize> {
        let (signs, now) = (self.signs(), Instant::now());
        let late = |heard: &Instant| now.saturating_duration_since(*heard) > MISSED_SIGNS * self.interval;
        let unheard: Vec<usize> = signs.heard.iter().filter(|(_, heard)| late(heard)).map(|(rank, _)| *rank).collect();
        if unheard.is_empty() { signs.told.clone() } else { unheard }
    }

    /// Takes a rank's sign of life, and rank 0's word of the others.
    fn hear(&self, rank: usize, message: &Message) {
        let mut signs = self.signs();
        if message.kind == BYE {
            // Nothing more is expected of it.
            signs.heard.retain(|(other, _)| *other != rank);
        }
        signs.heard.iter_mut().filter(|(other, _)| *other == rank).for_each(|(_, heard)| *heard = Instant::now());
        if message.kind == ALIVE {
            let told = message.bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
            signs.told = told.collect();
        }
    }

    /// Notes a failure, wakes those who wait, and passes the news on if it is rank 0's to do so.
    fn note(&self, failure: Failure, passes_on: bool) {
        let (message, from) = failure_message(&failure);
        let is_first = self.failures.note(failure);
        drop(self.barrier());
        self.changed.notify_all();
        if is_first && passes_on {
            self.tell(&message, Some(from));
        }
    }

    /// Reads what a rank sends until it says goodbye or is gone.
    fn listen(&self, rank: usize, link: &TcpStream, is_root: bool) {
        loop {
            let Ok(message) = Message::read(link) else {
                return self.note(Failure::Lost { rank }, is_root);
            };
            self.hear(rank, &message);
            match message.kind {
                BYE => return,
                ALIVE => {}
                ARRIVED => self.arrive(rank),
                RELEASED => {
                    self.barrier().released += 1;
                    self.changed.notify_all();
                }
                FAILED => {
                    let reason = String::from_utf8_lossy(&message.bytes).into_owned();
                    self.note(Failure::Failed { rank: message.rank, reason }, is_root);
                }
                LOST => self.note(Failure::Lost { rank: message.rank }, is_root),
                _ => return self.note(Failure::Lost { rank }, is_root),
            }
        }
    }

    /// Rank 0 counts an arrival, and releases all if it is the last: the others first, since rank 0 may leave once it is
    /// released itself.
    fn arrive(&self, rank: usize) {
        let complete = {
            let mut barrier = self.barrier();
            barrier.arrivals[rank] += 1;
            let round = barrier.complete + 1;
            let all = barrier.arrivals.iter().all(|arrivals| *arrivals >= round);
            barrier.complete += u64::from(all);
            all.then_some(round)
        };
        if let Some(round) = complete {
            self.tell(&Message::new(RELEASED, 0, &[]), None);
            let mut barrier = self.barrier();
            barrier.released = barrier.released.max(round);
            drop(barrier);
            self.changed.notify_all();
        }
    }
}

impl Control for Rendezvous {
    fn barrier(&self) -> Result<()> {
        let round = {
            let mut barrier = self.shared.barrier();
            barrier.own += 1;
            barrier.own
        };
        match self.rank {
            0 => self.shared.arrive(0),
            rank => self.shared.tell(&Message::new(ARRIVED, rank, &[]), None),
        }
        let end = Instant::now() + self.deadline;
        let mut barrier = self.shared.barrier();
        loop {
            if barrier.released >= round {
                return Ok(());
            }
            if let Some(error) = self.shared.failures.of_others(self.rank) {
                return Err(error);
            }
            let now = Instant::now();
            if now >= end {
                // Only rank 0 knows who has come.
                let silent = match self.rank {
                    0 => (0..self.ranks).filter(|rank| barrier.arrivals[*rank] < round).collect(),
                    _ => self.unheard(),
                };
                drop(barrier);
                let error = Error::Silent { rank: self.rank, doing: "the barrier", silent, waited: self.deadline };
                self.fail(&error.to_string());
                return Err(error);
            }
            let waited = self.shared.changed.wait_timeout(barrier, end - now);
            barrier = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fail(&self, reason: &str) {
        self.shared.failures.note(Failure::Failed { rank: self.rank, reason: reason.to_owned() });
        self.shared.tell(&Message::new(FAILED, self.rank, reason.as_bytes()), None);
    }

    fn failed(&self) -> Option<Error> {
        self.shared.failures.of_others(self.rank)
    }

    fn unheard(&self) -> Vec<usize> {
        // One that has just gone on after a stop may hear of itself.
        self.shared.unheard().into_iter().filter(|rank| *rank != self.rank).collect()
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        self.shared.signs().ended = true;
        // Who passes on may leave before the thread that heard of a failure has told the others.
        if let Some(failure) = self.shared.failures.known().filter(|_| self.rank == 0) {
            self.shared.tell(&failure_message(&failure).0, None);
        }
        // A rank that ends by a panic is lost: the connection ends without a goodbye.
        if !std::thread::panicking() {
            self.shared.tell(&Message::new(BYE, self.rank, &[]), None);
        }
        for (_, link) in &self.shared.links {
            let _ = link.lock().unwrap_or_else(PoisonError::into_inner).shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place for each rank, on a port that was free a moment ago.
    fn places(ranks: usize) -> Vec<Place> {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let address = "127.0.0.1".to_owned();
        (0..ranks).map(|rank| Place { rank, ranks, gpu: rank, address: address.clone(), port }).collect()
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Runs every rank on a thread of its own; what each returns.
    fn on_threads<T: Send>(places: &[Place], work: impl Fn(&Place) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = places.iter().map(|place| scope.spawn(move || work(place))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn join(place: &Place, deadline: Duration) -> (Rendezvous, Vec<u8>) {
        Rendezvous::join(place, || Ok(vec![7; 128]), deadline).unwrap()
    }

    /// Waits until something is known of the others' failures.
    fn heard(rendezvous: &Rendezvous) -> Error {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(error) = rendezvous.failed() {
                return error;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nothing was heard");
    }

    #[test]
    fn all_are_told_the_same_and_meet_again_and_again() {
        let told = on_threads(&places(4), |place| {
            let (rendezvous, told) = join(place, PATIENCE);
            for _ in 0..20 {
                rendezvous.barrier().unwrap();
            }
            told
        });
        assert_eq!(told, vec![vec![7; 128]; 4]);
    }

    #[test]
    fn a_failure_is_heard_by_all_in_its_own_words() {
        let said = on_threads(&places(4), |place| {
            let (rendezvous, _) = join(place, PATIENCE);
            let said = match place.rank {
                2 => {
                    rendezvous.fail("out of paper");
                    None
                }
                _ => Some(heard(&rendezvous).to_string()),
            };
            // A barrier that a failed rank does not come to ends at once, too.
            assert!(place.rank == 2 || rendezvous.barrier().is_err());
            (rendezvous, said)
        });
        for (rank, (_, said)) in said.iter().enumerate().filter(|(rank, _)| *rank != 2) {
            let expected = format!("rank 2 failed, so rank {rank} gave up: out of paper");
            assert_eq!(said.as_ref(), Some(&expected));
        }
    }

    /// A killed process says nothing: its connection ends.
    #[test]
    fn a_rank_whose_connection_ends_is_lost() {
        for lost in [0, 1] {
            let errors = on_threads(&places(3), |place| {
                let (rendezvous, _) = join(place, PATIENCE);
                if place.rank == lost {
                    // A process that is gone says nothing of what it saw when its connections ended.
                    rendezvous.shared.failures.note(Failure::Lost { rank: lost });
                    for (_, link) in &rendezvous.shared.links {
                        link.lock().unwrap().shutdown(Shutdown::Both).unwrap();
                    }
                    return (rendezvous, None);
                }
                let error = heard(&rendezvous);
                (rendezvous, Some(error))
            });
            for error in errors.iter().filter_map(|(_, error)| error.as_ref()) {
                assert!(matches!(error, Error::RankLost { lost: found, .. } if *found == lost), "{error}");
            }
        }
    }

    #[test]
    fn a_rank_that_left_in_peace_is_not_lost() {
        let failures = on_threads(&places(3), |place| {
            let (rendezvous, _) = join(place, PATIENCE);
            rendezvous.barrier().unwrap();
            if place.rank == 1 {
                return None;
            }
            std::thread::sleep(Duration::from_millis(300));
            rendezvous.failed().map(|error| error.to_string())
        });
        assert_eq!(failures, [None, None, None]);
    }

    /// A rank that gives no signs of life is named by all others, be it the one that passes news on; one that is only slow is
    /// not.
    #[test]
    fn who_gives_no_signs_of_life_is_unheard() {
        let deadline = Duration::from_secs(6);
        for stopped in [0, 1] {
            let found = on_threads(&places(3), |place| {
                let (rendezvous, _) = join(place, deadline);
                std::thread::sleep(Duration::from_secs(3));
                let before = rendezvous.unheard();
                rendezvous.barrier().unwrap();
                if place.rank == stopped {
                    rendezvous.shared.signs().ended = true;
                }
                let end = Instant::now() + PATIENCE;
                while place.rank != stopped && rendezvous.unheard().is_empty() && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let found = [before, rendezvous.unheard()];
                (rendezvous, found)
            });
            for (rendezvous, found) in found.iter().filter(|(rendezvous, _)| rendezvous.rank != stopped) {
                assert_eq!(*found, [vec![], vec![stopped]], "as rank {} says", rendezvous.rank);
            }
        }
    }

    /// Rank 0 leaves as soon as it may: the others are released all the same, and hear of failures.
    #[test]
    fn who_leaves_first_has_told_the_others_before() {
        for _ in 0..30 {
            on_threads(&places(4), |place| {
                let (rendezvous, _) = join(place, PATIENCE);
                rendezvous.barrier().unwrap();
            });
            on_threads(&places(4), |place| {
                let (rendezvous, _) = join(place, PATIENCE);
                match place.rank {
                    1 => rendezvous.fail("out of paper"),
                    _ => assert!(matches!(heard(&rendezvous), Error::RankFailed { failed: 1, .. })),
                }
            });
        }
    }

    #[test]
    fn who_is_missing_is_said_at_the_deadline() {
        let places = places(3);
        let short = Duration::from_millis(300);
        let errors = on_threads(&places[..2], |place| match Rendezvous::join(place, || Ok(Vec::new()), short) {
            Ok(_) => panic!("a rank is missing"),
            Err(error) => error.to_string(),
        });
        assert!(errors[0].contains("rank 0 of 3 meets the others at 127.0.0.1:"), "{errors:?}");
        assert!(errors[0].ends_with("rank 2 did not come"), "{errors:?}");
        assert!(errors[1].starts_with("rank 1 of 3 meets the others"), "{errors:?}");

        let errors = on_threads(&places, |place| {
            let (rendezvous, _) = join(place, short.max(Duration::from_secs(3)));
            // All are here; one does not come to the barrier.
            let error = (place.rank != 1).then(|| rendezvous.barrier().unwrap_err().to_string());
            (rendezvous, error)
        });
        for (_, error) in errors.iter().filter(|(rendezvous, _)| rendezvous.rank != 1) {
            let error = error.as_ref().unwrap();
            assert!(error.contains("the barrier"), "{error}");
        }
    }

    #[test]
    fn a_place_is_what_torchrun_says() {
        let variables = [
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node-0"),
            ("MASTER_PORT", "29500"),
        ];
        let with = |name: &str, value: Option<&str>| {
            Place::from_variables(|asked| {
                let own = variables.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned());
                if asked == name { value.map(str::to_owned) } else { own }
            })
        };
        let place = with("", None).unwrap();
        assert_eq!((place.rank, place.ranks, place.gpu), (3, 8, 1));
        assert_eq!((place.address.as_str(), place.port), ("node-0", 29501));
        assert_eq!(with("LOCAL_RANK", None).unwrap().gpu, 3);
        let said = |name: &str, value| with(name, value).unwrap_err().to_string();
        assert_eq!(said("RANK", None), "reading RANK: it is not set; torchrun sets it, or set it yourself");
        assert!(said("RANK", Some("8")).starts_with("reading RANK: 8 is not below WORLD_SIZE, which is 8"));
        assert!(said("WORLD_SIZE", Some("many")).starts_with("reading WORLD_SIZE: \"many\" is no number"));
        assert!(said("MASTER_PORT", Some("65535")).starts_with("reading MASTER_PORT: 65535 has no next port"));
    }
}
