//! Figures of one problem as a table for people.

use harness::table::{Align, Table, microseconds};
use sdpa_bench::timing::{self, Comparison, Figure, Record};

/// One row per contender; columns without any value are left out. A line behind it names who passes the ceiling.
pub(super) fn table(figures: &[Figure], baseline: Option<&Record>) -> String {
    type Column<'a> = (&'static str, Align, Vec<Option<String>>);
    let column = |title, align, cell: &dyn Fn(&Figure) -> Option<String>| -> Column<'_> {
        (title, align, figures.iter().map(cell).collect())
    };
    let ratio =
        |found: &Option<Comparison>| found.as_ref().map(|found| format!("{:.2} ({})", found.speedup, found.with));
    let verdict = |found: &Option<Comparison>| found.as_ref().map(|found| found.verdict.to_string());
    let earlier = |figure: &Figure| {
        baseline.and_then(|record| record.beside(&figure.contender, figure)).map(|old| timing::beside(figure, old))
    };
    use Align::{Left, Right};
    let columns = [
        column("contender", Left, &|figure| {
            Some(figure.contender.clone() + &figure.way.as_ref().map_or(String::new(), |way| format!(" ({way})")))
        }),
        column("µs", Right, &|figure| Some(microseconds(figure.median_us))),
        column("±", Right, &|figure| Some(format!("{:.1} %", 100.0 * figure.quartiles().spread()))),
        column("TFLOP/s", Right, &|figure| figure.tflops.map(|tflops| format!("{tflops:.1}"))),
        column("of ceiling", Right, &|figure| figure.of_ceiling.map(|share| format!("{:.0} %", 100.0 * share))),
        column("mJ", Right, &|figure| figure.joules.map(|joules| microseconds(joules * 1e3))),
        column("TFLOP/J", Right, &|figure| figure.tflop_per_joule.map(|found| format!("{found:.3}"))),
        column("cold µs", Right, &|figure| figure.cold_median_us.map(microseconds)),
        column("× parent", Right, &|figure| ratio(&figure.parent)),
        column("verdict", Left, &|figure| verdict(&figure.parent)),
        column("× best peer", Right, &|figure| ratio(&figure.best_peer)),
        column("verdict", Left, &|figure| verdict(&figure.best_peer)),
        column("× baseline", Right, &|figure| earlier(figure).map(|found| format!("{:.2}", found.speedup))),
        column("verdict", Left, &|figure| verdict(&earlier(figure))),
    ];
    let columns: Vec<_> = columns.into_iter().filter(|(.., cells)| cells.iter().any(Option::is_some)).collect();
    let mut table = Table::new(&columns.iter().map(|(title, align, _)| (*title, *align)).collect::<Vec<_>>());
    for row in 0..figures.len() {
        let cell = |(_, align, cells): &Column<'_>| {
            let nothing = if *align == Right { "–" } else { "" };
            cells[row].clone().unwrap_or_else(|| nothing.to_owned()).into()
        };
        table.push(columns.iter().map(cell).collect());
    }
    table.render() + &fault_of_ceiling(figures)
}

/// A line if a figure is faster than the ceiling allows.
fn fault_of_ceiling(figures: &[Figure]) -> String {
    let passing: Vec<&str> =
        figures.iter().filter(|figure| figure.passes_ceiling()).map(|figure| figure.contender.as_str()).collect();
    if passing.is_empty() {
        return String::new();
    }
    format!("the ceiling is wrong: faster than it allows: {}\n", passing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa_bench::timing::Timing;
    use sdpa_core::Problem;

    fn figures(problem: &Problem) -> Vec<Figure> {
        let figure = |name: &str, samples: [f64; 3], kernel: Option<&str>| Figure {
            cold_median_us: Some(2.0 * samples[1]),
            kernel: kernel.map(str::to_owned),
            ..Figure::new(name, problem, &Timing::new(samples.to_vec()))
        };
        let mut figures = vec![
            figure("v1", [300.0, 301.0, 302.0], Some("a")),
            figure("v2b", [100.0, 100.5, 101.0], Some("b")),
            figure("flash", [10.1, 10.2, 10.3], None),
            figure("cudnn", [9.0, 9.0, 9.1], None),
        ];
        timing::judge(&mut figures, &|id| (id == "v2b").then_some("v1"));
        figures
    }

    #[test]
    fn ratios_are_to_the_parent_the_best_peer_and_the_baseline() {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        let mut figures = figures(&problem);
        insta::assert_snapshot!(table(&figures, None), @r"
        contender    µs      ±  TFLOP/s  cold µs   × parent  verdict   × best peer  verdict
        v1          301  0.2 %      1.8      602          –           0.03 (cudnn)  slower
        v2b         100  0.2 %      5.3      201  3.00 (v1)  faster   0.09 (cudnn)  slower
        flash      10.2  0.5 %     52.6     20.4          –                      –
        cudnn      9.00  0.3 %     59.7     18.0          –                      –
        ");
        for figure in &mut figures {
            figure.of_ceiling = Some(0.8 / figure.median_us);
            figure.cold_median_us = None;
        }
        figures[3].way = Some("blhd".to_owned());
        let baseline = Record { figures: figures[..1].to_vec(), ..Record::default() };
        insta::assert_snapshot!(table(&figures, Some(&baseline)), @r"
        contender       µs      ±  TFLOP/s  of ceiling   × parent  verdict   × best peer  verdict  × baseline  verdict
        v1             301  0.2 %      1.8         0 %          –           0.03 (cudnn)  slower         1.00  same
        v2b            100  0.2 %      5.3         1 %  3.00 (v1)  faster   0.09 (cudnn)  slower            –
        flash         10.2  0.5 %     52.6         8 %          –                      –                    –
        cudnn (blhd)  9.00  0.3 %     59.7         9 %          –                      –                    –
        ");
    }

    #[test]
    fn energy_has_columns_and_a_share_above_all_a_line() {
        let problem = Problem::new(2, 8, 2048, 128).build().unwrap();
        let figure = |name: &str, joules, share| Figure {
            of_ceiling: Some(share),
            ..Figure::new(name, &problem, &Timing { joules, ..Timing::new(vec![54.0]) })
        };
        insta::assert_snapshot!(table(&[figure("v3c", Some(0.03), 1.02), figure("fa3", None, 0.98)], None), @r"
        contender    µs      ±  TFLOP/s  of ceiling    mJ  TFLOP/J
        v3c        54.0  0.0 %    636.3       102 %  30.0    1.145
        fa3        54.0  0.0 %    636.3        98 %     –        –
        the ceiling is wrong: faster than it allows: v3c
        ");
    }
}
