//! Several ranks of one program: threads, or one process for each as torchrun starts them.

use std::io::Write;
use std::time::Duration;

use sdpa_core::{Cuda, NcclId};
use sdpa_parallel::{Communicator, InProcess, Nccl, Place, Way};

/// How many ranks, and which way they take.
#[derive(clap::Args, Debug)]
pub(super) struct Ranks {
    /// Share each sequence among so many GPUs, one thread each. If RANK and WORLD_SIZE are set, as torchrun does, this
    /// process is one of so many ranks, on the GPU that LOCAL_RANK says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) ranks: Option<u16>,
    /// Which way ranks share a sequence; by default the one that suits the problem
    #[arg(long, value_enum, requires = "ranks")]
    pub(super) way: Option<WayName>,
    /// Seconds that a rank waits for the others before it gives up
    #[arg(long, value_name = "S", default_value_t = 60, requires = "ranks", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) deadline: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum WayName {
    /// Keys and values travel, while kernels work
    Ring,
    /// Each rank computes some heads of the whole sequence
    Heads,
}

impl From<WayName> for Way {
    fn from(name: WayName) -> Self {
        match name {
            WayName::Ring => Self::Ring,
            WayName::Heads => Self::Heads,
        }
    }
}

/// What threads can hand over.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The same for a verb's outcome.
pub(super) fn plain(error: Error) -> Box<dyn std::error::Error> {
    error
}

impl Ranks {
    fn patience(&self) -> Duration {
        Duration::from_secs(self.deadline.into())
    }

    /// This process's place among others, if it is one of several.
    pub(super) fn place(&self) -> Result<Option<Place>, Error> {
        if std::env::var_os("RANK").is_none() || std::env::var_os("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let place = Place::from_env()?;
        let asked = self.ranks.map_or(1, usize::from);
        match place.ranks == asked {
            true => Ok(Some(place)),
            false => Err(format!("--ranks is {asked}, but WORLD_SIZE is {}: they must be the same", place.ranks).into()),
        }
    }

    /// Runs `work` on every rank of this process, each with its GPU and connected with the others. In the order of the ranks.
    pub(super) fn on_gpus<T: Send>(
        &self,
        out: &mut dyn Write,
        work: impl Fn(&Cuda, &dyn Communicator) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let (major, minor, patch) = sdpa_core::nccl_version()?;
        let connected = |device: &Cuda, communicator: sdpa_parallel::Result<Nccl>| work(device, &communicator?);
        if let Some(place) = self.place()? {
            let device = Cuda::new(place.gpu)?;
            if place.rank == 0 {
                writeln!(out, "{} processes, NCCL {major}.{minor}.{patch}", place.ranks)?;
            }
            let communicator = Nccl::of_processes(&device, &place, self.patience());
            return Ok(vec![connected(&device, communicator)?]);
        }
        let ranks = self.ranks.map_or(1, usize::from);
        writeln!(out, "{ranks} threads, NCCL {major}.{minor}.{patch}")?;
        let id = NcclId::new()?;
        let outcomes: Vec<Result<T, Error>> = std::thread::scope(|scope| {
            let connected = &connected;
            let threads = InProcess::group(ranks, self.patience()).into_iter().map(|member| {
                scope.spawn(move || {
                    let device = Cuda::new(member.rank()).inspect_err(|error| member.fail(&error.to_string()))?;
                    let communicator = Nccl::of_threads(&device, member, &id);
                    connected(&device, communicator)
                })
            });
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .enumerate()
                .map(|(rank, thread)| thread.join().unwrap_or_else(|_| Err(format!("rank {rank} panicked").into())))
                .collect()
        });
        all_or_first(outcomes)
    }
}

/// All ranks' results, or the error of the rank that failed first by its own: the others only gave up because of it.
fn all_or_first<T>(outcomes: Vec<Result<T, Error>>) -> Result<Vec<T>, Error> {
    let mut given_up = None;
    let mut results = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(result) => results.push(result),
            Err(error) => {
                let is_of_others = matches!(
                    error.downcast_ref(),
                    Some(sdpa_parallel::Error::RankFailed { .. } | sdpa_parallel::Error::RankLost { .. })
                );
                if !is_of_others {
                    return Err(error);
                }
                given_up.get_or_insert(error);
            }
        }
    }
    given_up.map_or(Ok(results), Err)
}
