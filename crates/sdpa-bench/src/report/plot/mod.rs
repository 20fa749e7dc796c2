//! Plots as SVG: mid-tone colours on nothing, so that light and dark pages show them alike.

mod axes;
mod families;
mod lines;
mod palette;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use families::families;
use palette::{GENERATION, INK, PEER};

use super::{Evidence, Pick, ReportError, mission};
use harness::acceptance::shape_of;
use harness::table::microseconds;

/// A plot and the name of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// `ladder.svg`, `speed-d64-full.svg`, …
    pub file: String,
    /// The SVG.
    pub svg: String,
}

/// How the names of plots of speed begin; what else is called so under `docs/` is an older report's.
pub const SPEED: &str = "speed-";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Every plot that the evidence is enough for.
///
/// # Errors
/// [`ReportError::Drawing`].
pub fn plots(evidence: &Evidence) -> Result<Vec<Plot>, ReportError> {
    let mut plots = Vec::new();
    if let Some(svg) = ladder(evidence)? {
        plots.push(Plot { file: "ladder.svg".to_owned(), svg });
    }
    for (family, lengths) in families(evidence) {
        plots.push(Plot { file: family.file(), svg: lines::speed(evidence, &family, &lengths)? });
    }
    Ok(plots)
}

fn draw(size: (u32, u32), paint: impl FnOnce(&Area<'_>) -> Drawn) -> Result<String, ReportError> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    paint(&area).and_then(|()| area.present()).map_err(|error| ReportError::Drawing(error.to_string()))?;
    drop(area);
    Ok(svg)
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32, across: HPos, color: &RGBColor) -> Drawn {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(color).pos(Pos::new(across, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))
}

/// Times at the mission's shape as bars on a logarithmic axis; none if no contender was timed there.
fn ladder(evidence: &Evidence) -> Result<Option<String>, ReportError> {
    let mission = mission();
    let rungs = evidence.rungs.iter().map(|rung| rung.id.as_str());
    let names = rungs.chain(evidence.peers(|figure| figure.is_of(&mission)));
    let bars: Vec<(&str, Pick<'_>)> =
        names.filter_map(|name| evidence.pick(name, &mission).map(|pick| (name, pick))).collect();
    let times = || bars.iter().map(|(_, pick)| pick.entry.figure.median_us);
    let (Some(least), Some(most)) = (times().min_by(f64::total_cmp), times().max_by(f64::total_cmp)) else {
        return Ok(None);
    };
    // From a whole decade, and with room for the figure behind the longest bar.
    let low = 10f64.powi((least * 0.8).log10().floor() as i32);
    let high = most * (most / low).powf(0.15);
    const BAR: u32 = 28;
    let size: (u32, u32) = (760, 88 + BAR * bars.len() as u32);
    let paint = |area: &Area<'_>| -> Drawn {
        let title = format!("One pass over {} in f16, no mask, on {}", shape_of(&mission), evidence.device());
        text(area, &title, (96, 16), 16, HPos::Left, &INK)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(32)
            .margin_right(16)
            .x_label_area_size(48)
            .y_label_area_size(96)
            .build_cartesian_2d((low..high).log_scale(), 0.0..bars.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .axis_style(INK)
            .bold_line_style(INK.mix(0.35))
            .light_line_style(INK.mix(0.12))
            .label_style(("sans-serif", 13, &INK))
            .x_label_formatter(&|value| decade(*value))
            .draw()?;
        let (below, height) = ((size.0 / 2).cast_signed(), size.1.cast_signed());
        text(area, "µs, logarithmic: shorter is faster", (below, height - 14), 13, HPos::Center, &INK)?;
        for (row, (name, pick)) in bars.iter().enumerate() {
            let (entry, middle) = (pick.entry, (bars.len() - row) as f64 - 0.5);
            let color = if entry.peer { PEER } else { GENERATION };
            let us = entry.figure.median_us;
            let style = color.mix(if entry.stale { 0.45 } else { 1.0 }).filled();
            chart.draw_series([Rectangle::new([(low, middle - 0.34), (us, middle + 0.34)], style)])?;
            let (start, end) = (chart.backend_coord(&(low, middle)), chart.backend_coord(&(us, middle)));
            text(area, name, (start.0 - 8, start.1), 15, HPos::Right, &color)?;
            let stale = if entry.stale { " (stale)" } else { "" };
            text(area, &format!("{}{stale}", microseconds(us)), (end.0 + 6, end.1), 13, HPos::Left, &INK)?;
        }
        Ok(())
    };
    draw(size, paint).map(Some)
}

/// A power of ten, or a multiple of one, without the digits that logarithms leave behind.
fn decade(value: f64) -> String {
    if value < 0.95 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::evidence;
    use super::super::tests::{entry, record};
    use super::*;
    use crate::report::Entry;
    use sdpa_core::{Dtype, Mask, Problem};

    /// The evidence of the table, and lengths enough for lines.
    fn long() -> Evidence {
        let mut evidence = evidence();
        let entries = [512, 1024, 2048, 4096].into_iter().flat_map(|length| {
            let problem = Problem::new(16384 / length, 32, length, 64).dtype(Dtype::Bf16).mask(Mask::Causal).build();
            let problem = problem.unwrap();
            [("v8", 2e8), ("v9", 3e8), ("cudnn", 4e8)]
                .map(|(name, speed)| entry(name, &problem, problem.flops() / speed / (length as f64).sqrt() * 20.0))
        });
        evidence.records.push(record("long.json", entries.collect()));
        evidence.records[0].sittings[0].ceilings[0].dtype = "bf16".to_owned();
        evidence
    }

    #[test]
    fn lengths_make_lines_and_the_mission_makes_bars() {
        let names =
            |evidence: &Evidence| plots(evidence).unwrap().into_iter().map(|plot| plot.file).collect::<Vec<_>>();
        assert_eq!(names(&evidence()), ["ladder.svg"]);
        assert_eq!(names(&long()), ["ladder.svg", "speed-d64-causal-bf16.svg"]);
        assert_eq!(names(&Evidence::default()), [""; 0]);
    }

    #[test]
    fn the_same_evidence_gives_the_same_bytes() {
        let evidence = long();
        let drawn = plots(&evidence).unwrap();
        assert_eq!(plots(&evidence).unwrap(), drawn);
        // v9 is made to be faster than the product.
        const CEILING: &str = "a large matrix product; no bound, since lighter work clocks higher";
        let texts = [&["v9", "5.18", "47.0 (stale)", "cudnn"][..], &["v9", "2048", "length", CEILING]];
        for (plot, texts) in drawn.iter().zip(texts) {
            assert!(plot.svg.starts_with("<svg ") && plot.svg.trim_end().ends_with("</svg>"));
            let lines: Vec<&str> = plot.svg.lines().map(str::trim).collect();
            for text in texts {
                assert!(lines.contains(text), "{text}: {}", plot.svg);
            }
        }
    }

    /// Left and right end of every text in an SVG, if a letter is at most 0.62 of its size wide, and its height.
    fn texts(svg: &str) -> Vec<(String, f64, f64, f64)> {
        let value = |line: &str, name: &str| -> String {
            let start = line.find(&format!(" {name}=\"")).expect("an attribute") + name.len() + 3;
            line[start..].split('"').next().unwrap().to_owned()
        };
        let mut found = Vec::new();
        let lines: Vec<&str> = svg.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[0].trim_start().starts_with("<text ")) {
            let number = |name| value(pair[0], name).parse::<f64>().unwrap();
            let width = 0.62 * number("font-size") * pair[1].trim().chars().count() as f64;
            let left = match value(pair[0], "text-anchor").as_str() {
                "start" => number("x"),
                "middle" => number("x") - width / 2.0,
                _ => number("x") - width,
            };
            found.push((pair[1].trim().to_owned(), left, left + width, number("y")));
        }
        found
    }

    #[test]
    fn every_label_is_inside_the_picture_and_none_lies_on_another() {
        let mut evidence = long();
        // As many contenders as lines, with long names, all as fast.
        let mut crowd = Vec::new();
        for length in [512, 1024, 2048] {
            let problem = Problem::new(1, 8, length, 64).build().unwrap();
            crowd.extend(["v7", "v8", "v8b", "v9"].map(|name| Entry { stale: true, ..entry(name, &problem, 9.0) }));
            crowd.extend(["flash", "cudnn", "efficient", "fa3"].map(|name| entry(name, &problem, 9.01)));
        }
        evidence.records.push(record("crowd.json", crowd));
        let drawn = plots(&evidence).unwrap();
        assert_eq!(drawn.len(), 3);
        for plot in drawn {
            let size = |name: &str| {
                let start = plot.svg.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
                plot.svg[start..].split('"').next().unwrap().parse::<f64>().unwrap()
            };
            let (width, height) = (size("width"), size("height"));
            let texts = texts(&plot.svg);
            for (text, left, right, y) in &texts {
                let inside = *left >= 0.0 && *right <= width && *y >= 6.0 && *y <= height - 6.0;
                assert!(inside, "{}: {text:?} from {left} to {right} at {y}", plot.file);
            }
            let names = texts.iter().filter(|(text, ..)| {
                text.split(' ').next().is_some_and(|name| name == "efficient" || name.starts_with('v'))
            });
            let mut heights: Vec<f64> = names.map(|(.., y)| *y).collect();
            heights.sort_by(f64::total_cmp);
            assert!(heights.windows(2).all(|pair| pair[1] - pair[0] >= 12.0), "{}: {heights:?}", plot.file);
        }
    }
}
