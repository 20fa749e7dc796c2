//! What child processes do under the stand-in for the driver. Each is a test that only `driver.rs` runs.

use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use sdpa_core::{Attention, Buffer, Cuda, Device, DeviceChoice, Error, Operand, Problem, Tensors, TileBoxes};

use crate::stub::say;
use crate::v0::{V0, kernel, kernel_with_code};

fn problem() -> Problem {
    Problem::new(1, 2, 64, 64).build().unwrap()
}

/// Query, key, value, output and log-sum-exp.
fn buffers(device: &dyn Device) -> Result<[Buffer; 5], Error> {
    let bytes = problem().span(Operand::Query) * 2;
    let operand = || device.upload(&vec![0; bytes]);
    Ok([operand()?, operand()?, operand()?, device.allocate(bytes)?, device.allocate(2 * 64 * 4)?])
}

fn tensors([query, key, value, output, lse]: &[Buffer; 5]) -> Tensors<'_> {
    Tensors::new(query, key, value, output).with_lse(lse)
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn opens_what_there_is() {
    match sdpa_core::open(DeviceChoice::Auto) {
        Ok(device) => say(device.name()),
        Err(error) => say(error),
    }
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn does_everything() {
    match everything() {
        Ok(()) => say("ok"),
        Err(error) => say(error),
    }
}

/// Calls of every function of the driver that this crate calls at all.
fn everything() -> Result<(), Error> {
    let device = Cuda::new(0)?;
    say(device.name());
    device.driver_version()?;
    let problem = problem();
    let all = buffers(&device)?;
    V0.forward(&device, &problem, &tensors(&all))?;
    let prepared = V0.prepare(&device, &problem)?;
    prepared.forward(&tensors(&all))?;
    device.read(&all[3], 0, &mut [0; 16])?;
    let recording = device.record(&mut || V0.forward(&device, &problem, &tensors(&all)))?;
    recording.replay(2)?;
    drop(recording);
    device.resources(&kernel("merge", None))?;
    device.substitute(&kernel("merge", None), ".version 9.0")?;
    device.synchronize()
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn loads_machine_code() {
    let device = Cuda::new(0).unwrap();
    let ask = || {
        device.load(&kernel_with_code())?;
        device.load(&kernel_with_code())?;
        device.substitute(&kernel_with_code(), ".version 9.0")?;
        device.substitute_code(&kernel_with_code(), b"\x7fELF?")
    };
    match ask() {
        Ok(()) => say("ok"),
        Err(error) => say(error),
    }
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn works_from_other_threads() {
    let device = Cuda::new(0).unwrap();
    let allocated = device.allocated_bytes().unwrap();
    let all = buffers(&device).unwrap();
    let of_buffers: usize = all.iter().map(Buffer::bytes).sum();
    assert_eq!(device.allocated_bytes(), Some(allocated + of_buffers));
    // Each in a thread that has never called the driver.
    let alone = |work: &(dyn Fn() + Sync)| std::thread::scope(|scope| scope.spawn(work).join().unwrap());
    alone(&|| V0.forward(&device, &problem(), &tensors(&all)).unwrap());
    alone(&|| V0.forward(&device, &problem(), &tensors(&all)).unwrap());
    alone(&|| device.write(&all[0], 0, &[0; 16]).unwrap());
    alone(&|| device.read(&all[0], 0, &mut [0; 16]).unwrap());
    alone(&|| drop(device.allocate(16).unwrap()));
    alone(&|| assert!(device.resources(&kernel("merge", None)).unwrap().is_some()));
    alone(&|| device.substitute(&kernel("merge", None), ".version 9.0").unwrap());
    alone(&|| device.synchronize().unwrap());
    let prepared = V0.prepare(&device, &problem()).unwrap();
    alone(&|| prepared.forward(&tensors(&all)).unwrap());
    alone(&|| device.record(&mut || prepared.forward(&tensors(&all))).unwrap().replay(1).map(drop).unwrap());
    let recording = device.record(&mut || prepared.forward(&tensors(&all))).unwrap();
    // A device and what it made may be dropped where another device's context is current.
    let other = CudaContext::new(1).unwrap();
    drop(recording);
    drop(prepared);
    other.bind_to_thread().unwrap();
    drop(all);
    assert_eq!(device.allocated_bytes(), Some(allocated));
    other.bind_to_thread().unwrap();
    drop(device);
    drop(other);
    say("ok");
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn uses_two_devices() {
    let [first, second] = [0, 1].map(|ordinal| Cuda::new(ordinal).unwrap());
    let (ours, theirs) = (buffers(&first).unwrap(), buffers(&second).unwrap());
    // Right after the other one, whose context is current then.
    V0.forward(&second, &problem(), &tensors(&theirs)).unwrap();
    V0.forward(&first, &problem(), &tensors(&ours)).unwrap();
    let [query, key, _, output, _] = &ours;
    let mixed = Tensors::new(query, key, &theirs[2], output);
    say(V0.forward(&first, &problem(), &mixed).unwrap_err());
    say(V0.prepare(&first, &problem()).unwrap().forward(&mixed).unwrap_err());
    say(first.read(&theirs[0], 0, &mut [0]).unwrap_err());
    say(first.write(&theirs[0], 0, &[0]).unwrap_err());
    // Devices of one context share its memory.
    let context = CudaContext::new(0).unwrap();
    let sibling = Cuda::from_stream(context.new_stream().unwrap()).unwrap();
    V0.forward(&sibling, &problem(), &tensors(&ours)).unwrap();
    say("ok");
}

/// Two GPUs, two streams of each, two threads on each stream.
#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn works_from_many_threads_at_once() {
    let streams = [0, 0, 1, 1].map(|ordinal| CudaContext::new(ordinal).unwrap().new_stream().unwrap());
    let [first, other] = [0, 2].map(|index| Cuda::from_stream(Arc::clone(&streams[index])).unwrap());
    // SAFETY: the streams are of the devices' contexts, and are dropped last.
    let beside = |device: &Cuda, index: usize| unsafe { device.on_raw_stream(streams[index].cu_stream().cast()) };
    let (second, fourth) = (beside(&first, 1).unwrap(), beside(&other, 3).unwrap());
    let devices = [&first, &second, &other, &fourth];
    std::thread::scope(|scope| {
        for device in devices {
            let prepared = Arc::new(V0.prepare(device, &problem()).unwrap());
            let all = Arc::new(buffers(device).unwrap());
            for _ in 0..2 {
                let (prepared, all) = (Arc::clone(&prepared), Arc::clone(&all));
                scope.spawn(move || {
                    for _ in 0..10 {
                        V0.forward(device, &problem(), &tensors(&all)).unwrap();
                        prepared.forward(&tensors(&all)).unwrap();
                    }
                });
            }
        }
    });
    drop((first, second, other, fourth));
    say("ok");
}

/// A stream of a program that lets cudarc order its streams by events.
fn own_stream() -> Arc<cudarc::driver::CudaStream> {
    let context = CudaContext::new(0).unwrap();
    let (stream, _other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    assert!(context.is_event_tracking());
    stream
}

const MODE: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn records_a_graph_of_its_own() {
    let stream = own_stream();
    let device = Cuda::from_stream(Arc::clone(&stream)).unwrap();
    let all = buffers(&device).unwrap();
    let [superfluous, another] = [(); 2].map(|()| device.upload(&[0; 16]).unwrap());
    let prepared = V0.prepare(&device, &problem()).unwrap();
    stream.begin_capture(MODE).unwrap();
    prepared.forward(&tensors(&all)).unwrap();
    prepared.forward(&tensors(&all)).unwrap();
    drop(superfluous);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    graph.launch().unwrap();
    // Also by the usual way, whose workspace is then the graph's own.
    stream.begin_capture(MODE).unwrap();
    match V0.forward(&device, &problem(), &tensors(&all)) {
        Ok(()) => say("forward is recorded"),
        Err(error) => say(error),
    }
    drop(another);
    let inside = device.allocate(16);
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    drop((graph, prepared, all));
    // The last one is freed with the device, whichever context the thread has then.
    let other = CudaContext::new(1).unwrap();
    drop(inside);
    other.bind_to_thread().unwrap();
    drop(device);
    drop(other);
    say("ok");
}

#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn is_refused_while_a_graph_is_recorded() {
    let stream = own_stream();
    let device = Cuda::from_stream(Arc::clone(&stream)).unwrap();
    let all = buffers(&device).unwrap();
    let parts = kernel("parts", Some(TileBoxes { query: 64, key: 64, value: 64, output: 64 }));
    // The first of the two kernels is loaded: its launch must not be recorded without the other's.
    device.load(&parts).unwrap();
    stream.begin_capture(MODE).unwrap();
    let refuse = |result: Result<(), Error>| say(result.unwrap_err());
    refuse(V0.forward(&device, &problem(), &tensors(&all)));
    refuse(V0.prepare(&device, &problem()).map(drop));
    refuse(device.synchronize());
    refuse(device.read(&all[0], 0, &mut [0]));
    refuse(device.write(&all[0], 0, &[0]));
    refuse(device.resources(&kernel("merge", None)).map(drop));
    refuse(device.substitute(&kernel("merge", None), ".version 9.0"));
    refuse(device.record(&mut || Ok(())).map(drop));
    refuse(Cuda::from_stream(Arc::clone(&stream)).map(drop));
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    assert!(graph.is_some());
    V0.forward(&device, &problem(), &tensors(&all)).unwrap();
    device.synchronize().unwrap();
    say("ok");
}

/// Warm on one stream, recorded on another, as frameworks do.
#[test]
#[ignore = "driver.rs runs it under a stand-in for the driver"]
fn is_made_while_a_graph_is_recorded() {
    let (stream, warm) = (own_stream(), own_stream());
    let device = Cuda::from_stream(Arc::clone(&warm)).unwrap();
    let all = buffers(&device).unwrap();
    V0.forward(&device, &problem(), &tensors(&all)).unwrap();
    let raw = stream.cu_stream().cast();
    // SAFETY: the stream is of the same context, and is dropped last.
    let on_stream = |device: &Cuda| unsafe { device.on_raw_stream(raw) };

    stream.begin_capture(MODE).unwrap();
    say(on_stream(&device).map(drop).unwrap_err());
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();

    device.keep_spare_tickets().unwrap();
    device.keep_spare_tickets().unwrap();
    stream.begin_capture(MODE).unwrap();
    let recording = on_stream(&device).unwrap();
    // There was one.
    say(on_stream(&device).map(drop).unwrap_err());
    // Its kernels are loaded, since they are on the other stream.
    let recorded = V0.forward(&recording, &problem(), &tensors(&all));
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    if let Err(error) = recorded {
        say(error);
        return;
    }
    graph.launch().unwrap();
    drop(graph);
    // With a workspace of the program's own the graph has the launches alone.
    let plan = V0.plan(&problem(), device.limits()).unwrap();
    let workspace = device.allocate(plan.workspace_bytes).unwrap();
    stream.begin_capture(MODE).unwrap();
    V0.forward_in(&recording, &problem(), &tensors(&all), &plan, &workspace).unwrap();
    stream.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    // One that is made on a stream that records nothing needs no spare.
    V0.forward(&on_stream(&device).unwrap(), &problem(), &tensors(&all)).unwrap();
    drop(recording);
    drop((all, device));
    say("ok");
}
