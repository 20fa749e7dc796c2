//! What passes cost in joules: the device's own counter of energy, read while they run.
//!
//! The counter moves in steps some tens of milliseconds apart, so its value at the beginning and at the end of a sample would be
//! wrong by a good part of the sample. It is read every millisecond instead. Between two of its steps the energy and the
//! time are both known; their quotient is the mean power, and power by a pass's time is a pass's energy.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use sdpa_core::Device;

/// A count of all the energy that a device has drawn.
pub trait EnergyCounter: Send + Sync {
    /// Millijoules since the driver was loaded; none if it does not say.
    fn millijoules(&self) -> Option<u64>;
}

/// Why there is no energy per pass.
#[derive(Debug, thiserror::Error)]
pub enum NoEnergy {
    /// The device does not say which card it is.
    #[error("{0} has no UUID, by which NVIDIA's management library would know it")]
    Nameless(String),
    /// No management library, or one that does not know this card or its energy.
    #[error("NVIDIA's management library (libnvidia-ml): {0}")]
    Library(String),
}

/// Says what passes of one device cost.
pub struct Meter {
    counter: Box<dyn EnergyCounter>,
}

/// How often the counter is read.
const POLL: Duration = Duration::from_millis(1);

impl Meter {
    /// The meter of this very device, through NVIDIA's management library, which is loaded now.
    ///
    /// # Errors
    /// [`NoEnergy`] where there is no library, or the card counts no energy.
    pub fn of(device: &dyn Device) -> Result<Self, NoEnergy> {
        let uuid = device.uuid().ok_or_else(|| NoEnergy::Nameless(device.name()))?;
        let card = library()?.device_by_uuid(uuid.as_str()).map_err(words)?;
        card.total_energy_consumption().map_err(words)?;
        Ok(Self::with(Box::new(Card(card))))
    }

    /// A meter that reads another counter.
    pub fn with(counter: Box<dyn EnergyCounter>) -> Self {
        Self { counter }
    }

    /// Does the work, and says at how many watts on average; none if the counter made fewer than two steps meanwhile.
    pub fn around<T>(&self, work: impl FnOnce() -> T) -> (T, Option<f64>) {
        let done = AtomicBool::new(false);
        let start = Instant::now();
        let readings = || {
            let mut readings = Vec::new();
            while !done.load(Ordering::Relaxed) {
                // The time of the reading is the middle of the call.
                let asked = start.elapsed();
                let Some(millijoules) = self.counter.millijoules() else { return Vec::new() };
                readings.push(((asked + start.elapsed()) / 2, millijoules));
                std::thread::sleep(POLL);
            }
            readings
        };
        std::thread::scope(|scope| {
            let reader = std::thread::Builder::new().spawn_scoped(scope, readings);
            let result = work();
            done.store(true, Ordering::Relaxed);
            let readings = reader.ok().and_then(|reader| reader.join().ok()).unwrap_or_default();
            (result, watts(&readings))
        })
    }
}

/// Mean power between the first and the last step of a counter; none of fewer than two steps. A step lies in the middle
/// between the reading before it and the one after it.
fn watts(readings: &[(Duration, u64)]) -> Option<f64> {
    let mut steps = readings.windows(2).filter(|pair| pair[1].1 > pair[0].1).map(|pair| {
        let [(before, _), (after, millijoules)] = [pair[0], pair[1]];
        ((before + after) / 2, millijoules)
    });
    let (first, low) = steps.next()?;
    let (last, high) = steps.next_back()?;
    Some((high - low) as f64 * 1e-3 / (last - first).as_secs_f64())
}

struct Card(nvml_wrapper::Device<'static>);

impl EnergyCounter for Card {
    fn millijoules(&self) -> Option<u64> {
        self.0.total_energy_consumption().ok()
    }
}

fn words(error: NvmlError) -> NoEnergy {
    NoEnergy::Library(error.to_string())
}

/// Loaded once. It stays loaded, so that cards can be borrowed from it for good.
fn library() -> Result<&'static Nvml, NoEnergy> {
    static LIBRARY: OnceLock<Result<Nvml, String>> = OnceLock::new();
    let load = || {
        // A driver alone has the numbered name, a toolkit adds the other.
        let numbered = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        numbered.or_else(|_| Nvml::init()).map_err(|error| error.to_string())
    };
    LIBRARY.get_or_init(load).as_ref().map_err(|reason| NoEnergy::Library(reason.clone()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// A counter that makes a step each time it is read, and knows how often it was.
    #[derive(Clone, Default)]
    pub(in crate::timing) struct Ticking(Arc<AtomicU64>);

    impl EnergyCounter for Ticking {
        fn millijoules(&self) -> Option<u64> {
            Some(1000 * self.0.fetch_add(1, Ordering::Relaxed))
        }
    }

    impl Ticking {
        /// Comes back when the counter has made so many steps more, however busy the machine is.
        pub(in crate::timing) fn wait_for(&self, steps: u64) {
            let end = self.0.load(Ordering::Relaxed) + steps + 1;
            let start = Instant::now();
            while self.0.load(Ordering::Relaxed) < end {
                assert!(start.elapsed() < Duration::from_secs(60), "the counter is not read");
                std::thread::sleep(POLL);
            }
        }
    }

    struct Broken;

    impl EnergyCounter for Broken {
        fn millijoules(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn power_is_between_the_first_and_the_last_step() {
        let ms = Duration::from_millis;
        // 700 W in steps of 20 ms that are seen up to 2 ms late; the time before the first step does not count.
        let readings: Vec<_> = (0..60).map(|index| (ms(2 * index), (2 * index + 7) / 20 * 14_000)).collect();
        let found = watts(&readings).unwrap();
        assert!((found / 700.0 - 1.0).abs() < 1e-9, "{found}");
        let one_step = [(ms(0), 5), (ms(1), 5), (ms(2), 9), (ms(3), 9)];
        assert_eq!([watts(&[]), watts(&one_step[..1]), watts(&one_step)], [None; 3]);
    }

    #[test]
    fn a_counter_is_read_while_the_work_goes_on() {
        let ticking = Ticking::default();
        let meter = Meter::with(Box::new(ticking.clone()));
        let (result, watts) = meter.around(|| {
            ticking.wait_for(5);
            7
        });
        assert_eq!(result, 7);
        // Whole joules, at most one a millisecond.
        assert!(watts.is_some_and(|watts| watts > 0.0 && watts < 1001.0), "{watts:?}");
        let broken = Meter::with(Box::new(Broken));
        assert_eq!(broken.around(|| std::thread::sleep(3 * POLL)).1, None);
    }

    #[test]
    fn a_device_without_a_counter_says_why() {
        let error = Meter::of(&sdpa_core::Interpreter::new()).err().unwrap().to_string();
        assert!(error.ends_with("has no UUID, by which NVIDIA's management library would know it"), "{error}");
    }
}
