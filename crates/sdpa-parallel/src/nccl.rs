//! Ranks that are GPUs, over NCCL: threads of one process, or one process for each.

use std::time::{Duration, Instant};

use sdpa_core::{Cuda, Device, NcclId, Transfer};

use crate::communicator::{Communicator, Control};
use crate::error::{Error, Result};
use crate::in_process::InProcess;
use crate::rendezvous::{Place, Rendezvous};

/// How long an error of NCCL's waits for the news of which rank is gone.
const NEWS: Duration = Duration::from_millis(500);

/// One rank of a group of GPUs. Blocks travel by NCCL on a stream of their own; a connection beside it carries barriers and
/// bad news, so that a lost rank is reported at once and by name.
pub struct Nccl {
    // Closed first, while the others can still be heard of.
    inner: sdpa_core::Nccl,
    control: Box<dyn Control>,
    rank: usize,
    ranks: usize,
    deadline: Duration,
}

impl Nccl {
    /// One process with several GPUs: each thread calls this with its member of [`InProcess::group`], its device and the one
    /// id that [`NcclId::new`] made for all.
    ///
    /// # Errors
    /// [`sdpa_core::Error::NoNccl`] if there is no NCCL; [`Error::Silent`] and the like if not all ranks come.
    pub fn of_threads(device: &Cuda, member: InProcess, id: &NcclId) -> Result<Self> {
        let (rank, ranks, deadline) = (member.rank(), member.ranks(), member.deadline());
        Self::connect(device, Box::new(member), id, [rank, ranks], deadline)
    }

    /// One process for each GPU, as torchrun starts them: rank 0 makes the id and tells the others.
    ///
    /// # Errors
    /// As [`of_threads`](Self::of_threads), and [`Error::Rendezvous`] if the processes do not find one another.
    pub fn of_processes(device: &Cuda, place: &Place, deadline: Duration) -> Result<Self> {
        // Said before any rank waits for another.
        sdpa_core::nccl_version()?;
        let make = || Ok(NcclId::new()?.0.to_vec());
        let (rendezvous, told) = Rendezvous::join(place, make, deadline)?;
        let Ok(id) = told.as_slice().try_into().map(NcclId) else {
            let what = "bytes of NCCL's id";
            return Err(Error::Disagreement { what, found: told.len(), expected: sdpa_core::NCCL_ID_BYTES });
        };
        Self::connect(device, Box::new(rendezvous), &id, [place.rank, place.ranks], deadline)
    }

    fn connect(
        device: &Cuda,
        control: Box<dyn Control>,
        id: &NcclId,
        [rank, ranks]: [usize; 2],
        deadline: Duration,
    ) -> Result<Self> {
        let stop = || control.failed().is_some();
        let connected = sdpa_core::Nccl::connect(device, rank, ranks, id, deadline, &stop);
        match connected {
            Ok(inner) => Ok(Self { inner, control, rank, ranks, deadline }),
            Err(error) => Err(in_words(error, &*control, rank)),
        }
    }

    fn stop(&self) -> bool {
        self.control.failed().is_some()
    }

    fn said<T>(&self, outcome: sdpa_core::Result<T>) -> Result<T> {
        outcome.map_err(|error| in_words(error, &*self.control, self.rank))
    }
}

/// What happened, as far as the others are to blame: by name if the control connection knows it.
pub(crate) fn in_words(error: sdpa_core::Error, control: &dyn Control, rank: usize) -> Error {
    let is_of_others = matches!(error, sdpa_core::Error::Nccl { .. } | sdpa_core::Error::Deadline { .. });
    if is_of_others {
        let end = Instant::now() + NEWS;
        loop {
            if let Some(failed) = control.failed() {
                return failed;
            }
            // A deadline has waited long enough.
            if matches!(error, sdpa_core::Error::Deadline { .. }) || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let error = match error {
        sdpa_core::Error::Deadline { doing, waited, .. } => {
            Error::Silent { rank, doing, silent: control.unheard(), waited }
        }
        other => Error::Device(other),
    };
    control.fail(&error.to_string());
    error
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn exchange(&self, _device: &dyn Device, sends: &[Transfer<'_>], receives: &[Transfer<'_>]) -> Result<()> {
        self.said(self.inner.exchange(sends, receives, self.deadline, &|| self.stop()))
    }

    fn transfers_follow_compute(&self, _device: &dyn Device) -> Result<()> {
        self.said(self.inner.transfers_follow_compute())
    }

    fn compute_follows_transfers(&self, _device: &dyn Device) -> Result<()> {
        self.said(self.inner.compute_follows_transfers())
    }

    fn synchronize(&self, _device: &dyn Device) -> Result<()> {
        self.said(self.inner.synchronize(self.deadline, &|| self.stop()))
    }

    fn barrier(&self) -> Result<()> {
        self.control.barrier()
    }

    fn fail(&self, reason: &str) {
        self.control.fail(reason);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // A communicator closes together with the others; without them it is ended.
        if self.stop() || std::thread::panicking() {
            self.inner.abort();
        }
    }
}
