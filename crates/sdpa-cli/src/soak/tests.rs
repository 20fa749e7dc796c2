//! Forty steps of the server, and what must not get past it.

use std::sync::atomic::{AtomicU64, Ordering};

use sdpa::generations;
use sdpa_cache::Append;
use sdpa_core::{
    Buffer, Device, DeviceKind, DeviceLimits, Interpreter, Launch, MemoryId, Params, Recording, Resources, Result,
    Specialisation,
};

use super::server::{Server, Step};
use super::{Options, Report, Shape, soak, soak_meddled};

/// A cache that is always short of pages.
const TINY: Shape =
    Shape { sequences: 4, page: 8, pages: 10, most_keys: 160, tokens: 12, most_new: 8, most_grown: 12, ..Shape::SMALL };

fn options(steps: u64) -> Options {
    Options { steps, every: 1, sampled: usize::MAX, seed: 3 }
}

/// Steps of which the first `before` are as they should be.
fn meddled(before: u64, mut meddle: impl FnMut(&mut Server, &mut Step) -> bool) -> Report {
    let (device, generation) = (Interpreter::new(), generations::find("v2j").unwrap());
    let mut is_done = false;
    let meddle = |number: u64, server: &mut Server, step: &mut Step| {
        // Once, and where there is something to do.
        if number >= before && !is_done {
            is_done = meddle(server, step);
        }
    };
    let report = soak_meddled(&device, generation, TINY, options(40), |_, _| {}, meddle).unwrap();
    assert!(is_done, "nothing was done");
    report
}

fn is_wrong_beside_the_oracle(report: &Report) -> bool {
    !report.passed() && report.findings[0].contains(" keys: ")
}

#[test]
fn forty_steps_are_right_and_leave_nothing() {
    let report = soak(&Interpreter::new(), generations::find("v2j").unwrap(), TINY, options(40), |_, _| {}).unwrap();
    assert!(report.passed(), "{report:#?}");
    assert!(report.ended > 3 && report.evicted > 0 && report.shared_prefixes > 0, "{report:#?}");
    assert!(report.judged_steps > 35 && report.judged_rows > 500 && report.unjudged_rows == 0, "{report:#?}");
    assert!(report.pages_taken > 3 * TINY.pages as u64 && report.most_pages == TINY.pages, "{report:#?}");
    assert!(report.allocated_bytes.is_some(), "{report:#?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let steps = |seed| {
        let mut server = Server::new(TINY, seed);
        (0..60).map(|_| format!("{:?}", server.step())).collect::<Vec<_>>()
    };
    assert!(steps(1) == steps(1) && steps(1) != steps(2));
}

#[test]
fn a_stale_length_is_noticed() {
    let report = meddled(5, |_, step| {
        let longest = (0..step.lengths.len())
            .filter(|place| !step.rows(*place).is_empty())
            .max_by_key(|place| step.lengths[*place]);
        longest.is_some_and(|place| {
            step.lengths[place] -= 1;
            step.lengths[place] > 0
        })
    });
    assert!(is_wrong_beside_the_oracle(&report), "{report:#?}");
}

#[test]
fn an_append_that_is_skipped_is_noticed() {
    let report = meddled(5, |_, step| {
        let has_token = !step.tokens.is_empty();
        step.slots[0] = -1;
        has_token
    });
    assert!(is_wrong_beside_the_oracle(&report), "{report:#?}");
}

/// The page that a sequence still reads is the next that somebody takes.
#[test]
fn a_page_freed_too_early_is_noticed() {
    let report = meddled(5, |server, _| {
        let live = server.places.iter().flatten().max_by_key(|sequence| sequence.pages.len());
        let first = live.filter(|sequence| sequence.pages.len() > 1).map(|sequence| sequence.pages[0]);
        first.is_some_and(|page| {
            server.pages.free.push(page);
            true
        })
    });
    let wrong = report.findings.iter().any(|finding| finding.contains(" keys: "));
    assert!(wrong && report.findings.iter().any(|finding| finding.contains("was free and in use")), "{report:#?}");
}

#[test]
fn a_page_that_is_never_given_back_is_noticed() {
    let report = meddled(5, |server, _| server.pages.free.pop().is_some());
    assert!(report.findings.last().unwrap().starts_with("at the end 9 of 10 pages are free"), "{report:#?}");
}

#[test]
fn memory_that_a_step_keeps_is_noticed() {
    let (device, generation) = (Interpreter::new(), generations::find("v2j").unwrap());
    let mut kept = Vec::new();
    let meddle = |number: u64, _: &mut Server, _: &mut Step| {
        if number == 2 {
            kept.push(device.allocate(100).unwrap());
        }
    };
    let report = soak_meddled(&device, generation, TINY, options(4), |_, _| {}, meddle).unwrap();
    assert!(report.findings[0].starts_with("step 2: allocated Some("), "{report:#?}");
    assert!(report.findings[1].starts_with("at the end the device has allocated "), "{report:#?}");
}

/// What a GPU runs is planned here, too.
#[test]
fn the_large_server_is_planned() {
    let problem = Shape::LARGE.problem().unwrap();
    for limits in [DeviceLimits::A100, DeviceLimits::L4, DeviceLimits::H200] {
        generations::find("v2j").unwrap().plan(&problem, &limits).unwrap();
    }
    assert!(Append::to_caches_of(&problem, Shape::LARGE.tokens).build().is_ok());
}

/// An interpreter on which every second launch of an attention kernel is followed by another last bit where its output
/// is read from its beginning.
struct Unsteady {
    device: Interpreter,
    launches: AtomicU64,
}

impl Device for Unsteady {
    fn name(&self) -> String {
        self.device.name()
    }
    fn kind(&self) -> DeviceKind {
        self.device.kind()
    }
    fn limits(&self) -> &DeviceLimits {
        self.device.limits()
    }
    fn memory(&self) -> MemoryId {
        self.device.memory()
    }
    fn tickets(&self) -> u64 {
        self.device.tickets()
    }
    fn allocate_named(&self, name: &str, bytes: usize) -> Result<Buffer> {
        self.device.allocate_named(name, bytes)
    }
    fn write(&self, buffer: &Buffer, offset: usize, bytes: &[u8]) -> Result<()> {
        self.device.write(buffer, offset, bytes)
    }
    fn read(&self, buffer: &Buffer, offset: usize, bytes: &mut [u8]) -> Result<()> {
        self.device.read(buffer, offset, bytes)?;
        // The output is the only buffer of its size; its log-sum-exp is much smaller, and nothing else is read.
        let is_output = buffer.bytes() == TINY.tokens * TINY.heads_q * TINY.head_dim * 2;
        if is_output && offset == 0 && self.launches.load(Ordering::Relaxed).is_multiple_of(2) {
            bytes[0] ^= 1;
        }
        Ok(())
    }
    fn load(&self, kernel: &Specialisation) -> Result<()> {
        self.device.load(kernel)
    }
    fn launch(&self, launch: &Launch, params: &Params) -> Result<()> {
        self.launches.fetch_add(u64::from(params.output.address != 0 && params.lse != 0), Ordering::Relaxed);
        self.device.launch(launch, params)
    }
    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }
    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording + '_>> {
        self.device.record(work)
    }
    fn resources(&self, kernel: &Specialisation) -> Result<Option<Resources>> {
        self.device.resources(kernel)
    }
    fn substitute(&self, kernel: &Specialisation, ptx: &str) -> Result<()> {
        self.device.substitute(kernel, ptx)
    }
}

#[test]
fn another_last_bit_is_noticed() {
    let device = Unsteady { device: Interpreter::new(), launches: AtomicU64::new(0) };
    let report = soak(&device, generations::find("v2j").unwrap(), TINY, options(10), |_, _| {}).unwrap();
    assert!(report.findings[0].contains("it has other bits"), "{report:#?}");
    assert_eq!(report.allocated_bytes, None, "this device does not count");
}
