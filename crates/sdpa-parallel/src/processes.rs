//! Ranks that are processes, of which one is stopped or killed: real signals, and attention on interpreters. What meets and
//! hears of failures is what GPUs have, [`Rendezvous`] and the words of [`in_words`]; blocks travel in files instead of by
//! NCCL.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sdpa_core::{Device, Interpreter, Operand, Problem, Transfer};

use crate::communicator::{Communicator, Control as _};
use crate::error::Result;
use crate::nccl::in_words;
use crate::rendezvous::{Place, Rendezvous};
use crate::{ContextParallel, LocalTensors, Way};

const RANKS: usize = 3;
const DEADLINE: Duration = Duration::from_secs(5);
/// What a machine with other things to do may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Set in a process that is a rank: which one, the port, the way and the folder for blocks and words.
const RANK: &str = "SDPA_TEST_RANK";

/// A communicator whose blocks are files.
struct Files {
    control: Rendezvous,
    place: Place,
    folder: PathBuf,
    /// Blocks that were sent to a rank, and those that were received from one; a rank sends to itself, too.
    blocks: [RefCell<HashMap<usize, usize>>; 2],
}

impl Files {
    fn next(&self, from: usize, to: usize, [direction, peer]: [usize; 2]) -> PathBuf {
        let mut blocks = self.blocks[direction].borrow_mut();
        let count = blocks.entry(peer).or_default();
        *count += 1;
        self.folder.join(format!("{from}-{to}-{count}.block"))
    }

    /// As NCCL's binding waits: until the block is there, the deadline, or news of a failure.
    fn wait(&self, path: &Path) -> Result<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Ok(bytes) = std::fs::read(path) {
                let _ = std::fs::remove_file(path);
                return Ok(bytes);
            }
            let stopped = self.control.failed().is_some();
            if stopped || Instant::now() > end {
                let error = sdpa_core::Error::Deadline { doing: "a block in a file", waited: DEADLINE, stopped };
                return Err(in_words(error, &self.control, self.place.rank));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Communicator for Files {
    fn rank(&self) -> usize {
        self.place.rank
    }

    fn ranks(&self) -> usize {
        self.place.ranks
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn exchange(&self, device: &dyn Device, sends: &[Transfer<'_>], receives: &[Transfer<'_>]) -> Result<()> {
        for send in sends {
            let mut bytes = vec![0; send.bytes];
            device.read(send.buffer, send.offset, &mut bytes)?;
            let path = self.next(self.place.rank, send.peer, [0, send.peer]);
            let part = path.with_extension("part");
            std::fs::write(&part, bytes).unwrap();
            std::fs::rename(part, path).unwrap();
        }
        for receive in receives {
            let bytes = self.wait(&self.next(receive.peer, self.place.rank, [1, receive.peer]))?;
            device.write(receive.buffer, receive.offset, &bytes)?;
        }
        Ok(())
    }

    fn transfers_follow_compute(&self, _device: &dyn Device) -> Result<()> {
        Ok(())
    }

    fn compute_follows_transfers(&self, _device: &dyn Device) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, device: &dyn Device) -> Result<()> {
        Ok(device.synchronize()?)
    }

    fn barrier(&self) -> Result<()> {
        self.control.barrier()
    }

    fn fail(&self, reason: &str) {
        self.control.fail(reason);
    }
}

/// What the process of a rank does: attention, again and again, until something fails; that is left in a file.
fn be_a_rank(asked: &str) {
    let [rank, port, way, folder] = asked.splitn(4, ' ').collect::<Vec<_>>()[..] else { panic!("{asked}") };
    let (rank, way) = (rank.parse().unwrap(), if way == "ring" { Way::Ring } else { Way::Heads });
    let place = Place { rank, ranks: RANKS, gpu: rank, address: "127.0.0.1".to_owned(), port: port.parse().unwrap() };
    let folder = PathBuf::from(folder);
    let (control, _) = Rendezvous::join_by(Instant::now() + PATIENCE, &place, || Ok(Vec::new()), DEADLINE).unwrap();
    let files = Files { control, place, folder: folder.clone(), blocks: Default::default() };
    let error = passes(&files, way, &folder.join(format!("ready-{rank}"))).unwrap_err();
    let part = folder.join(format!("part-{rank}"));
    std::fs::write(&part, error.to_string()).unwrap();
    std::fs::rename(part, folder.join(format!("said-{rank}"))).unwrap();
}

fn passes(files: &Files, way: Way, ready: &Path) -> Result<std::convert::Infallible> {
    let problem = Problem::new(1, RANKS, 24, 64).build().map_err(sdpa_core::Error::from)?;
    let parallel = ContextParallel::new(problem, RANKS)?.with_way(way);
    let plan = parallel.plan(files.rank())?;
    let device = Interpreter::new();
    let elements: usize = parallel.local_shape(Operand::Query, files.rank()).iter().product();
    let ones = [0x00, 0x3c].repeat(elements);
    let (query, key, value) = (device.upload(&ones)?, device.upload(&ones)?, device.upload(&ones)?);
    let output = device.allocate(ones.len())?;
    let workspace = plan.workspace(&device)?;
    files.barrier()?;
    loop {
        plan.forward(&device, files, &LocalTensors::new(&query, &key, &value, &output), &workspace)?;
        files.synchronize(&device)?;
        let mut found = vec![0; ones.len()];
        device.read(&output, 0, &mut found)?;
        assert_eq!(found, ones, "an average of ones");
        std::fs::write(ready, []).unwrap();
    }
}

/// Processes that end with the test.
struct Ranks {
    children: Vec<Child>,
    folder: PathBuf,
}

impl Ranks {
    fn start(test: &str, way: Way) -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let folder = std::env::temp_dir().join(format!("sdpa-ranks-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let child = |rank: usize| {
            Command::new(std::env::current_exe().unwrap())
                .args([&format!("processes::{test}"), "--exact", "--test-threads", "1"])
                .env(RANK, format!("{rank} {port} {way} {}", folder.display()))
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let ranks = Self { children: (0..RANKS).map(child).collect(), folder };
        (0..RANKS).for_each(|rank| drop(ranks.wait_for(&format!("ready-{rank}"))));
        ranks
    }

    fn wait_for(&self, name: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(said) = std::fs::read_to_string(self.folder.join(name)) {
                return said;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no {name} within {PATIENCE:?}");
    }

    fn signal(&self, name: &str, rank: usize) {
        let process = self.children[rank].id().to_string();
        let done = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
        assert!(done.success(), "kill -{name} {process}");
    }

    /// Sends a signal to one rank; what each of the others says, and after how long.
    fn after(&self, name: &str, rank: usize) -> Vec<(String, Duration)> {
        let started = Instant::now();
        self.signal(name, rank);
        let others = (0..RANKS).filter(|other| *other != rank);
        others.map(|other| (self.wait_for(&format!("said-{other}")), started.elapsed())).collect()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A stopped process closes no connection: the deadline finds it, and the missing signs of life name it.
fn is_named_when_stopped(test: &str, way: Way, rank: usize) {
    if let Ok(asked) = std::env::var(RANK) {
        return be_a_rank(&asked);
    }
    let ranks = Ranks::start(test, way);
    for (said, after) in ranks.after("STOP", rank) {
        assert!(said.contains(&format!("rank {rank} was expected and did not answer")), "{way}: {said}");
        assert!(after < DEADLINE + Duration::from_secs(30), "{way}: {after:?}");
    }
    // Once it goes on it hears of it, and gives up too.
    ranks.signal("CONT", rank);
    let said = ranks.wait_for(&format!("said-{rank}"));
    assert!(!said.is_empty(), "{way}: {said}");
}

#[test]
fn a_stopped_rank_of_a_ring_is_named_at_the_deadline() {
    is_named_when_stopped("a_stopped_rank_of_a_ring_is_named_at_the_deadline", Way::Ring, 1);
}

/// Rank 0 is whom all others hear news from.
#[test]
fn a_stopped_first_rank_is_named_at_the_deadline() {
    is_named_when_stopped("a_stopped_first_rank_is_named_at_the_deadline", Way::Heads, 0);
}

#[test]
fn a_killed_rank_is_named_at_once() {
    if let Ok(asked) = std::env::var(RANK) {
        return be_a_rank(&asked);
    }
    let ranks = Ranks::start("a_killed_rank_is_named_at_once", Way::Ring);
    for (said, _) in ranks.after("KILL", 2) {
        assert!(said.contains("rank 2 is gone"), "{said}");
    }
}
