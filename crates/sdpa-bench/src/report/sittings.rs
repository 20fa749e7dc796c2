//! One contender beside another over several sittings.

use super::Entry;
use crate::timing::{Verdict, compare};

/// What sittings say of one contender beside another on one problem. Each ratio is of one sitting.
#[derive(Clone, Debug, PartialEq)]
pub struct Beside {
    /// The other contender: of several the one of the sitting with the median ratio.
    pub with: String,
    /// Median of how many times its speed, the lower of two in the middle.
    pub speedup: f64,
    /// The least of all sittings.
    pub least: f64,
    /// What the sittings say together: [`Verdict::of_all`].
    pub verdict: Verdict,
    /// How many sittings have both.
    pub sittings: usize,
    /// True if a kernel of ours has changed since.
    pub stale: bool,
}

impl Beside {
    /// What pairs of figures say, ours first, a pair for each sitting; none of none.
    pub fn of(pairs: Vec<(&Entry, &Entry)>) -> Option<Self> {
        let said = pairs.iter().map(|(ours, theirs)| {
            let ratio = theirs.figure.median_us / ours.figure.median_us;
            (ratio, theirs.figure.contender.as_str(), compare(&ours.figure.quartiles(), &theirs.figure.quartiles()))
        });
        let mut said: Vec<(f64, &str, Verdict)> = said.collect();
        said.sort_by(|(left, ..), (right, ..)| left.total_cmp(right));
        let (least, ..) = *said.first()?;
        let (speedup, with, _) = said[(said.len() - 1) / 2];
        Some(Self {
            with: with.to_owned(),
            speedup,
            least,
            verdict: Verdict::of_all(said.iter().map(|(.., verdict)| *verdict))?,
            sittings: said.len(),
            stale: pairs.iter().any(|(ours, theirs)| ours.stale || theirs.stale),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mission;
    use crate::report::tests::{entry, record};
    use crate::timing::Verdict;

    fn in_sittings(contender: &str, times: &[f64]) -> Vec<Entry> {
        let entry = |(sitting, us): (usize, &f64)| Entry { sitting, ..entry(contender, &mission(), *us) };
        times.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn faster_is_what_every_sitting_says() {
        let beside = |ours: &[f64], cudnn: &[f64], fa3: &[f64]| {
            let entries = [in_sittings("v9", ours), in_sittings("cudnn", cudnn), in_sittings("fa3", fa3)].concat();
            record("a.json", entries).beside_best_peer("v9", &mission())
        };
        let found = beside(&[50.0, 50.0, 50.0], &[70.0, 60.0, 90.0], &[80.0, 80.0, 55.0]).unwrap();
        assert_eq!(
            (found.with.as_str(), found.speedup, found.least),
            ("cudnn", 1.2, 1.1),
            "of the fastest of each sitting"
        );
        assert_eq!((found.verdict, found.sittings, found.stale), (Verdict::Faster, 3, false));
        let once = beside(&[50.0, 50.0], &[70.0, 50.5], &[]).unwrap();
        assert_eq!((once.verdict, once.speedup), (Verdict::Ambiguous, 1.01), "one sitting does not say so");
        assert_eq!(beside(&[50.0, 50.0], &[50.1, 40.0], &[]).unwrap().verdict, Verdict::Slower);
        // A ratio is never of two sittings.
        assert_eq!(beside(&[50.0], &[], &[]), None);
        assert_eq!(beside(&[50.0, 60.0], &[70.0], &[]).unwrap().sittings, 1);
    }

    #[test]
    fn sittings_with_todays_kernel_count_alone() {
        let mut entries = [in_sittings("v9", &[40.0, 50.0, 60.0]), in_sittings("cudnn", &[90.0, 90.0, 90.0])].concat();
        entries[0].stale = true;
        let found = record("a.json", entries.clone()).beside_best_peer("v9", &mission()).unwrap();
        assert_eq!((found.sittings, found.speedup, found.stale), (2, 1.5, false));
        for entry in &mut entries[1..3] {
            entry.stale = true;
        }
        let found = record("a.json", entries).beside_best_peer("v9", &mission()).unwrap();
        assert_eq!((found.sittings, found.stale), (3, true));
    }
}
