//! What the figures of one run say about a generation: beside its ancestors, beside the peers, and beside an earlier run.

use std::fmt;

use super::{Comparison, Figure, Record, Regime, Verdict, compare};

/// The generation that a generation evolved from.
pub type ParentOf<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

/// The figure of the nearest ancestor that has one here: a parent may decline what its own parent takes.
pub fn ancestor<'f>(figures: &'f [Figure], id: &str, parent_of: ParentOf<'_>) -> Option<&'f Figure> {
    let parents = std::iter::successors(parent_of(id), |id| parent_of(id));
    // No line of descent is longer than this, unless it runs in a circle.
    parents.take(1000).find_map(|parent| figures.iter().find(|figure| figure.contender == parent))
}

/// One figure beside another.
pub fn beside(ours: &Figure, theirs: &Figure) -> Comparison {
    Comparison {
        with: theirs.contender.clone(),
        speedup: theirs.median_us / ours.median_us,
        verdict: compare(&ours.quartiles(), &theirs.quartiles()),
    }
}

/// Puts every generation's figure of one problem beside its nearest ancestor's and the fastest peer's.
pub fn judge(figures: &mut [Figure], parent_of: ParentOf<'_>) {
    let peers = figures.iter().filter(|figure| figure.kernel.is_none());
    let best = peers.min_by(|left, right| left.median_us.total_cmp(&right.median_us)).cloned();
    for index in 0..figures.len() {
        let ours = &figures[index];
        if ours.kernel.is_none() {
            continue;
        }
        let parent = ancestor(figures, &ours.contender, parent_of).map(|before| beside(ours, before));
        let best_peer = best.as_ref().map(|best| beside(ours, best));
        (figures[index].parent, figures[index].best_peer) = (parent, best_peer);
    }
}

/// A verdict that another run does not confirm although the kernel is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Whose.
    pub contender: String,
    /// The problem, as a figure knows it.
    pub problem: String,
    /// Then and now: beside whom, and the verdict.
    pub then_and_now: [(String, Verdict); 2],
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contender, problem, then_and_now: [(with, then), (with_now, now)] } = self;
        write!(f, "{contender} on {problem}: beside {with} it was {then}, beside {with_now} it is {now}")
    }
}

/// What became of the verdicts of an earlier run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moves {
    /// Problems of which a verdict was compared.
    pub problems: usize,
    /// Verdicts that are what they were.
    pub as_before: usize,
    /// Verdicts that were or are ambiguous, so that neither run contradicts the other.
    pub ambiguous: usize,
    /// Verdicts that moved from one claim to another.
    pub moved: Vec<Move>,
    /// Verdicts about other kernels than before: a kernel has changed, or another ancestor was timed.
    pub about_others: usize,
}

impl Moves {
    /// Both runs' verdicts on the same problems, as faster, slower or same.
    pub fn between(before: &Record, now: &Record) -> Self {
        let mut found = Self::default();
        let mut problems = Vec::new();
        for figure in now.figures.iter().filter(|figure| figure.kernel.is_some()) {
            let Some(case) = figure.case() else { continue };
            let Some(earlier) = before.beside(&figure.contender, figure) else { continue };
            // A peer has no kernel of ours: in each run it is the peer that was the fastest.
            let kernel =
                |record: &Record, with: &str| record.beside(with, figure).and_then(|other| other.kernel.clone());
            let is_unchanged = earlier.kernel == figure.kernel;
            let beside_peer = earlier.best_peer.as_ref().zip(figure.best_peer.as_ref());
            let beside_parent = earlier.parent.as_ref().zip(figure.parent.as_ref());
            let same_parent = beside_parent.is_some_and(|(then, now_with)| {
                then.with == now_with.with && kernel(before, &then.with) == kernel(now, &now_with.with)
            });
            for (pair, is_same) in [(beside_parent, same_parent), (beside_peer, true)] {
                let Some((then, now)) = pair else { continue };
                if !(is_unchanged && is_same) {
                    found.about_others += 1;
                    continue;
                }
                if !problems.contains(&case) {
                    problems.push(case.clone());
                }
                if [then.verdict, now.verdict].contains(&Verdict::Ambiguous) {
                    found.ambiguous += 1;
                } else if then.verdict == now.verdict {
                    found.as_before += 1;
                } else {
                    found.moved.push(Move {
                        contender: figure.contender.clone(),
                        problem: format!("{}{}", case.problem, turns(figure.regime)),
                        then_and_now: [then, now].map(|found| (found.with.clone(), found.verdict)),
                    });
                }
            }
        }
        found.problems = problems.len();
        found
    }

    /// Another grid's, too.
    pub fn add(&mut self, other: Self) {
        let Self { problems, as_before, ambiguous, moved, about_others } = other;
        self.problems += problems;
        self.as_before += as_before;
        self.ambiguous += ambiguous;
        self.about_others += about_others;
        self.moved.extend(moved);
    }
}

/// Words behind a problem, if its figures are not of short turns.
fn turns(regime: Regime) -> &'static str {
    match regime {
        Regime::Short => "",
        Regime::Sustained => ", sustained turns",
    }
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { problems, as_before, ambiguous, moved, about_others } = self;
        for moved in moved {
            writeln!(f, "moved: {moved}")?;
        }
        let verdicts = as_before + ambiguous + moved.len();
        write!(f, "{problems} problems, {verdicts} verdicts on unchanged kernels: ")?;
        write!(f, "{as_before} as before, {ambiguous} ambiguous, {} moved", moved.len())?;
        if *about_others > 0 {
            write!(f, " ({about_others} on kernels that have changed, or beside another parent)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timing;
    use super::*;
    use sdpa_core::Problem;

    fn figure(contender: &str, us: f64) -> Figure {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let kernel = contender.starts_with('v').then(|| format!("kernel of {contender}"));
        Figure { kernel, ..Figure::new(contender, &problem, &Timing::new(vec![us])) }
    }

    fn family(id: &str) -> Option<&'static str> {
        [("v2", "v1"), ("v3", "v2"), ("v4", "v3")].into_iter().find(|(child, _)| *child == id).map(|(_, parent)| parent)
    }

    fn judged(figures: &[(&str, f64)]) -> Record {
        let mut figures: Vec<Figure> = figures.iter().map(|(who, us)| figure(who, *us)).collect();
        judge(&mut figures, &family);
        Record { figures, ..Record::default() }
    }

    #[test]
    fn a_generation_stands_beside_its_nearest_ancestor_and_the_best_peer() {
        let record = judged(&[("v1", 90.0), ("v3", 9.0), ("v4", 9.05), ("flash", 10.0), ("cudnn", 9.2)]);
        let said = |index: usize| {
            let Figure { parent, best_peer, .. } = &record.figures[index];
            [parent, best_peer].map(|found| found.as_ref().map(|found| (found.with.as_str(), found.verdict)))
        };
        assert_eq!(said(0), [None, Some(("cudnn", Verdict::Slower))]);
        // v2 declined.
        assert_eq!(said(1), [Some(("v1", Verdict::Faster)), Some(("cudnn", Verdict::Ambiguous))]);
        assert_eq!(said(2), [Some(("v3", Verdict::Same)), Some(("cudnn", Verdict::Ambiguous))]);
        assert_eq!(said(3), [None, None]);
    }

    #[test]
    fn only_claims_about_the_same_kernel_can_move() {
        let before = judged(&[("v1", 90.0), ("v2", 9.0), ("v3", 4.0), ("cudnn", 10.0)]);
        let still = Moves::between(&before, &before);
        assert_eq!((still.problems, still.as_before, still.ambiguous, still.moved.len()), (1, 5, 0, 0));
        // v2 wanders to where nothing can be said of it and the peers, v3 is another kernel, and v1 is said to be fast.
        let mut now = judged(&[("v1", 5.0), ("v2", 9.9), ("v3", 40.0), ("flash", 9.8)]);
        now.figures[2].kernel = Some("edited".to_owned());
        insta::assert_snapshot!(Moves::between(&before, &now), @r"
        moved: v1 on b1 h8 L512 d64 f16 full: beside cudnn it was slower, beside flash it is faster
        moved: v2 on b1 h8 L512 d64 f16 full: beside v1 it was faster, beside v1 it is slower
        1 problems, 3 verdicts on unchanged kernels: 0 as before, 1 ambiguous, 2 moved (2 on kernels that have changed, or beside another parent)
        ");
    }

    /// A verdict beside a parent is about both kernels.
    #[test]
    fn an_edited_parent_leaves_its_child_uncompared() {
        let before = judged(&[("v1", 90.0), ("v2", 9.0), ("v3", 4.0)]);
        let mut now = judged(&[("v1", 90.0), ("v2", 3.0), ("v3", 4.0)]);
        assert_eq!(Moves::between(&before, &now).moved.len(), 1);
        now.figures[1].kernel = Some("edited".to_owned());
        let found = Moves::between(&before, &now);
        assert_eq!((found.as_before, found.ambiguous, found.moved.len(), found.about_others), (0, 0, 0, 2));
        // Nor does it say anything of v1 what was said of v2.
        let now = judged(&[("v1", 2.0), ("v3", 4.0)]);
        assert_eq!(Moves::between(&before, &now), Moves { about_others: 1, ..Moves::default() });
    }

    /// A verdict on packed sequences is about their lengths.
    #[test]
    fn only_figures_of_the_same_lengths_are_compared() {
        let record = |line: &str, us: f64| {
            let case = line.parse().unwrap();
            let figure = |who: &str, us| Figure {
                kernel: (who == "v1").then(|| "kernel".to_owned()),
                ..Figure::of_case(who, &case, &Timing::new(vec![us]))
            };
            let mut figures = vec![figure("v1", us), figure("fa3", 10.0)];
            judge(&mut figures, &family);
            Record { figures, ..Record::default() }
        };
        let packed = "L42 d64 packed=4,30,30 blhd";
        let before = record(&format!("{packed} lengths=5,0,30,7"), 5.0);
        assert_eq!(Moves::between(&before, &record(&format!("{packed} lengths=5,0,30,7"), 20.0)).moved.len(), 1);
        for other in [packed.to_owned(), format!("{packed} lengths=0,5,30,7"), "L42 d64".to_owned()] {
            assert_eq!(Moves::between(&before, &record(&other, 20.0)), Moves::default(), "{other}");
        }
    }

    #[test]
    fn verdicts_move_within_a_regime() {
        let in_regime = |regime, us| {
            let mut record = judged(&[("v1", us), ("cudnn", 10.0)]);
            record.figures.iter_mut().for_each(|figure| figure.regime = regime);
            record
        };
        let [short, sustained] = Regime::ALL;
        assert_eq!(Moves::between(&in_regime(short, 5.0), &in_regime(sustained, 20.0)), Moves::default());
        let moved = Moves::between(&in_regime(sustained, 5.0), &in_regime(sustained, 20.0)).moved;
        let line =
            "v1 on b1 h8 L512 d64 f16 full, sustained turns: beside cudnn it was faster, beside cudnn it is slower";
        assert_eq!(moved[0].to_string(), line);
    }

    #[test]
    fn grids_add_up() {
        let before = judged(&[("v1", 90.0), ("v2", 9.0), ("cudnn", 10.0)]);
        let now = judged(&[("v1", 90.0), ("v2", 9.9), ("cudnn", 10.0)]);
        let mut all = Moves::between(&before, &before);
        all.add(Moves::between(&before, &now));
        assert_eq!(all.to_string(), "2 problems, 6 verdicts on unchanged kernels: 5 as before, 1 ambiguous, 0 moved");
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let circle = |id: &str| Some(if id == "v1" { "v2" } else { "v1" });
        assert!(ancestor(&[figure("v3", 1.0)], "v1", &circle).is_none());
    }
}
