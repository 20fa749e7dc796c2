//! Recorded work: a graph between two timing events.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaEvent, CudaGraph, CudaStream};

use super::{driver, library};
use crate::{DriverAnswer, Error, Recording, Result};

/// A captured graph between two timing events.
pub(super) struct Graph<'a> {
    /// `None` only while it is dropped.
    graph: Option<CudaGraph>,
    start: CudaEvent,
    end: CudaEvent,
    stream: &'a CudaStream,
}

impl<'a> Graph<'a> {
    /// Records what `work` queues on the stream, which must not be recording already.
    pub(super) fn record(stream: &'a Arc<CudaStream>, work: &mut dyn FnMut() -> Result<()>) -> Result<Self> {
        library::require(library::RECORDING)?;
        let event = || {
            let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
            stream.context().new_event(timed).map_err(driver("making an event"))
        };
        let (start, end) = (event()?, event()?);
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(driver("starting to record a graph"))?;
        let worked = work();
        // Ended whatever happened, or the stream would stay in capture.
        let graph = stream
            .end_capture(CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .map_err(driver("ending the recording of a graph"));
        worked?;
        let nothing = || {
            let answer = DriverAnswer::new(0, "the work to record queued nothing");
            Error::Driver { doing: "recording a graph", answer }
        };
        Ok(Self { graph: Some(graph?.ok_or_else(nothing)?), start, end, stream })
    }
}

impl Recording for Graph<'_> {
    fn replay(&self, times: u32) -> Result<Duration> {
        self.start.record(self.stream).map_err(driver("recording an event"))?;
        for graph in std::iter::repeat_n(&self.graph, times as usize).flatten() {
            graph.launch().map_err(driver("replaying a graph"))?;
        }
        self.end.record(self.stream).map_err(driver("recording an event"))?;
        let milliseconds = self.start.elapsed_ms(&self.end).map_err(driver("reading an event"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds) * 1e-3))
    }
}

impl Drop for Graph<'_> {
    fn drop(&mut self) {
        // cudarc destroys a graph in whichever context the thread has.
        self.stream.context().record_err(self.stream.context().bind_to_thread());
        self.graph = None;
    }
}
