//! Several ranks of one program: threads, or one process for each as torchrun starts them.

use std::io::Write;
use std::time::Duration;

use sdpa_core::{Cuda, Device, DeviceChoice, Interpreter, NcclId};
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
        let asked = self.count();
        match place.ranks == asked {
            true => Ok(Some(place)),
            false => {
                Err(format!("--ranks is {asked}, but WORLD_SIZE is {}: they must be the same", place.ranks).into())
            }
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
        writeln!(out, "{} threads, NCCL {major}.{minor}.{patch}", self.count())?;
        let id = NcclId::new()?;
        self.on_threads(|member| {
            let device = Cuda::new(member.rank()).inspect_err(|error| member.fail(&error.to_string()))?;
            let communicator = Nccl::of_threads(&device, member, &id);
            connected(&device, communicator)
        })
    }

    /// Runs `work` on every rank, all of them threads of this process: on as many GPUs over NCCL if there are as many, on
    /// fewer GPUs that ranks share, or on interpreters.
    pub(super) fn on_devices<T: Send>(
        &self,
        out: &mut dyn Write,
        work: impl Fn(&dyn Device, &dyn Communicator) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        if self.place()?.is_some() {
            return Err(
                "one process has all ranks here: unset RANK and WORLD_SIZE, and do not start it by torchrun".into()
            );
        }
        let choice = DeviceChoice::from_env()?;
        let first = sdpa_core::open(choice)?;
        writeln!(out, "device: {}", first.name())?;
        let is_gpu = super::keeps_time(&*first);
        drop(first);
        let gpus = (0..self.count()).take_while(|gpu| is_gpu && Cuda::new(*gpu).is_ok()).count();
        if gpus == self.count() && gpus > 1 {
            return self.on_gpus(out, |device, communicator| work(device, communicator));
        }
        if gpus > 0 && gpus < self.count() {
            writeln!(out, "note: {} ranks share {gpus} GPUs, by way of the host's memory", self.count())?;
        }
        self.on_threads(|member| {
            let open = || -> sdpa_core::Result<Box<dyn Device>> {
                Ok(match gpus {
                    0 => Box::new(Interpreter::new()),
                    gpus => Box::new(Cuda::new(member.rank() % gpus)?),
                })
            };
            let device = open().inspect_err(|error| member.fail(&error.to_string()))?;
            work(&*device, &member)
        })
    }

    /// How many ranks there are.
    pub(super) fn count(&self) -> usize {
        self.ranks.map_or(1, usize::from)
    }

    /// One thread for each rank. In the order of the ranks.
    fn on_threads<T: Send>(&self, work: impl Fn(InProcess) -> Result<T, Error> + Sync) -> Result<Vec<T>, Error> {
        let outcomes: Vec<Result<T, Error>> = std::thread::scope(|scope| {
            let work = &work;
            let members = InProcess::group(self.count(), self.patience()).into_iter();
            let threads: Vec<_> = members.map(|member| scope.spawn(move || work(member))).collect();
            let joined = threads
                .into_iter()
                .enumerate()
                .map(|(rank, thread)| thread.join().unwrap_or_else(|_| Err(format!("rank {rank} panicked").into())));
            joined.collect()
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
