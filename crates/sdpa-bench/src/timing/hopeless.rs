//! Generations that are right on a problem and too slow there to be worth timing.

use std::time::Duration;

use harness::table::microseconds;

/// A pass shorter than this is always timed: the first generations belong in every table of small problems.
const SLOW: Duration = Duration::from_millis(20);

/// How many times the fastest generation's pass a longer one may take.
const TIMES_THE_FASTEST: u32 = 10;

/// A generation that is left out of a problem's timing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hopeless<'a> {
    /// Which one.
    pub id: &'a str,
    /// In words for people.
    pub reason: String,
}

/// Of generations that were right on a problem, and how long their verified passes took, those that need not be timed:
/// a pass of more than 20 ms that also takes more than 10 times the fastest generation's. Their samples would take most
/// of a run's time to say what the one pass has said.
pub fn hopeless<'a>(took: &[(&'a str, Duration)]) -> Vec<Hopeless<'a>> {
    let Some(&(fastest, least)) = took.iter().min_by_key(|(_, took)| *took) else { return Vec::new() };
    let is_hopeless = |took: Duration| took > SLOW && took > least * TIMES_THE_FASTEST;
    let us = |took: Duration| microseconds(took.as_secs_f64() * 1e6);
    took.iter()
        .filter(|(_, took)| is_hopeless(*took))
        .map(|&(id, took)| Hopeless {
            id,
            reason: format!(
                "right, and too slow here: its verified pass took {} µs, {fastest}'s {} µs (not timed: over {} ms and over \
                 {TIMES_THE_FASTEST} times the fastest)",
                us(took),
                us(least),
                SLOW.as_millis()
            ),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_beside_the_fastest_and_slow_by_the_clock() {
        let ms = |value: f64| Duration::from_secs_f64(value * 1e-3);
        let left_out = |took: &[(&'static str, f64)]| -> Vec<&str> {
            let took: Vec<_> = took.iter().map(|(id, took)| (*id, ms(*took))).collect();
            hopeless(&took).into_iter().map(|found| found.id).collect()
        };
        assert_eq!(left_out(&[("v1", 600.0), ("v2b", 95.0), ("v2d", 6.4), ("v3c", 3.4)]), ["v1", "v2b"]);
        // 34 times the fastest, and over at once.
        assert_eq!(left_out(&[("v1", 0.17), ("v2e", 0.005)]), [""; 0]);
        // Long, and no other generation is faster.
        assert_eq!(left_out(&[("v1", 600.0), ("v2b", 95.0)]), [""; 0]);
        assert_eq!(left_out(&[]), [""; 0]);
        let reason = &hopeless(&[("v1", ms(600.0)), ("v3c", ms(3.4))])[0].reason;
        assert_eq!(
            reason,
            "right, and too slow here: its verified pass took 600000 µs, v3c's 3400 µs (not timed: over 20 ms and over 10 \
             times the fastest)"
        );
    }
}
