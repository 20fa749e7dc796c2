//! Is it faster than what it evolved from?

use super::steps::Outcome;
use harness::table::microseconds;
use sdpa_bench::timing::{Figure, ParentOf, Verdict, ancestor, beside};

/// Faster than its nearest ancestor somewhere, and slower nowhere; `problems` are figures of everybody, a group a
/// problem.
pub fn judge_speed(id: &str, problems: &[Vec<Figure>], parent_of: ParentOf<'_>) -> Outcome {
    let Some(parent) = parent_of(id) else {
        return Outcome::passed("the first of its line: there is no parent to be faster than");
    };
    let (mut lines, mut faster, mut slower) = (Vec::new(), 0, 0);
    for figures in problems {
        let Some(ours) = figures.iter().find(|figure| figure.contender == id) else { continue };
        let Some(theirs) = ancestor(figures, id, parent_of) else { continue };
        let found = beside(ours, theirs);
        faster += usize::from(found.verdict == Verdict::Faster);
        slower += usize::from(found.verdict == Verdict::Slower);
        let problem = ours.problem().map_or_else(String::new, |problem| problem.to_string());
        lines.push(format!(
            "{problem}: {} µs, {} {} µs: {:.2} ×, {}",
            microseconds(ours.median_us),
            found.with,
            microseconds(theirs.median_us),
            found.speedup,
            found.verdict
        ));
    }
    let of = lines.len();
    let headline = match (faster, slower) {
        _ if lines.is_empty() => {
            let line = format!("no ancestor takes a problem that {id} takes: name shapes with --shape");
            return Outcome::not_run(&line);
        }
        (0, 0) => format!("no faster than {parent} on any of {of} problems"),
        (_, 0) => format!("faster than its ancestors on {faster} of {of} problems, slower on none"),
        (_, slower) => format!("slower than its ancestors on {slower} of {of} problems"),
    };
    let story = std::iter::once(headline).chain(lines).collect::<Vec<_>>().join("\n");
    match (faster, slower) {
        (1.., 0) => Outcome::passed(&story),
        _ => Outcome::failed(
            &story,
            &format!(
                "what it does more of than {parent}: sdpa counters {parent} {id}, then a profile (ncu --set full); a problem \
                 that the parent serves better may be declined in `plan`, and shapes that the idea is for are named with --shape"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;
    use sdpa_bench::timing::Timing;
    use sdpa_core::Problem;

    fn family(id: &str) -> Option<&'static str> {
        [("v2", "v1"), ("v3", "v2")].into_iter().find(|(child, _)| *child == id).map(|(_, parent)| parent)
    }

    fn problem(length: usize, times: &[(&str, f64)]) -> Vec<Figure> {
        let problem = Problem::new(1, 8, length, 64).build().unwrap();
        times.iter().map(|(who, us)| Figure::new(who, &problem, &Timing::new(vec![*us]))).collect()
    }

    #[test]
    fn faster_somewhere_and_slower_nowhere_passes() {
        let short = problem(512, &[("v1", 30.0), ("v2", 10.0), ("v3", 5.0)]);
        let same = problem(1024, &[("v1", 60.0), ("v2", 20.0), ("v3", 20.1)]);
        let worse = problem(2048, &[("v1", 120.0), ("v3", 130.0)]);
        let judged = |problems: &[Vec<Figure>]| judge_speed("v3", problems, &family);
        let passed = judged(&[short.clone(), same.clone()]);
        assert_eq!(passed.status, Status::Passed);
        insta::assert_snapshot!(passed.detail, @r"
        faster than its ancestors on 1 of 2 problems, slower on none
        b1 h8 L512 d64 f16 full: 5.00 µs, v2 10.0 µs: 2.00 ×, faster
        b1 h8 L1024 d64 f16 full: 20.1 µs, v2 20.0 µs: 1.00 ×, same
        ");
        assert_eq!(judged(std::slice::from_ref(&same)).status, Status::Failed);
        let failed = judged(&[short, worse]);
        assert_eq!(failed.status, Status::Failed);
        insta::assert_snapshot!(failed.detail, @r"
        slower than its ancestors on 1 of 2 problems
        b1 h8 L512 d64 f16 full: 5.00 µs, v2 10.0 µs: 2.00 ×, faster
        b1 h8 L2048 d64 f16 full: 130 µs, v1 120 µs: 0.92 ×, slower
        ");
        assert_eq!(judged(&[problem(64, &[("v3", 1.0)])]).status, Status::NotRun);
        assert_eq!(judge_speed("v1", &[], &family).status, Status::Passed);
    }
}
