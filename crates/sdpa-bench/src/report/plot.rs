//! Plots as SVG: mid-tone colours on nothing, so that light and dark pages show them alike.

use std::collections::{BTreeMap, BTreeSet};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Evidence, Pick, ReportError, mission};
use crate::timing::Figure;
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
pub const SPEED: &str = "speed-d";

/// Fewer lengths make no line.
const LENGTHS: usize = 3;

/// Text, axes and, thinned, the grid. Its contrast is above 4 on white and on GitHub's dark grey.
const INK: RGBColor = RGBColor(0x73, 0x7b, 0x84);
const GENERATION: RGBColor = RGBColor(0x3b, 0x82, 0xc4);
const PEER: RGBColor = RGBColor(0xc9, 0x7b, 0x2a);
/// Neighbours differ in lightness too.
const LINES: [RGBColor; 8] = [
    RGBColor(0x3b, 0x82, 0xc4),
    RGBColor(0x2f, 0xa0, 0x6f),
    RGBColor(0x9a, 0x6b, 0xd8),
    RGBColor(0xd1, 0x4f, 0x8a),
    RGBColor(0x4a, 0xa9, 0xb8),
    RGBColor(0x8f, 0x94, 0x2e),
    RGBColor(0xd0, 0x5a, 0x47),
    RGBColor(0x6b, 0x70, 0xd6),
];
const PEER_LINES: [RGBColor; 4] =
    [RGBColor(0xc9, 0x7b, 0x2a), RGBColor(0x8c, 0x8c, 0x8c), RGBColor(0xb0, 0x8d, 0x57), RGBColor(0xd9, 0x9a, 0x3c)];

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
        plots.push(Plot { file: family.file(), svg: speed(evidence, &family, &lengths)? });
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

/// The device without what only plans want to know.
fn device(evidence: &Evidence) -> &str {
    let device = evidence.records.first().map_or("", |record| record.device.as_str());
    device.split_once(" (").map_or(device, |(name, _)| name)
}

/// Times at the mission's shape as bars on a logarithmic axis; none where nobody was timed there.
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
    let size = (760, 88 + BAR * bars.len() as u32);
    let paint = |area: &Area<'_>| -> Drawn {
        let title = format!("One pass over {} in f16, no mask, on {}", shape_of(&mission), device(evidence));
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
            .x_desc("µs, logarithmic: shorter is faster")
            .draw()?;
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

/// Self-attention problems that differ in their length only, or in length and batch with as many positions in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Family {
    head_dim: usize,
    mask: String,
    dtype: String,
    heads: usize,
    kept: Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kept {
    /// Batch × length.
    Positions(usize),
    /// Batch.
    Batch(usize),
}

impl Family {
    fn of(figure: &Figure) -> Option<[Self; 2]> {
        let square = figure.len_q == figure.len_kv && figure.heads_q == figure.heads_kv;
        let family = |kept| Self {
            head_dim: figure.head_dim,
            mask: figure.mask.clone(),
            dtype: figure.dtype.clone(),
            heads: figure.heads_q,
            kept,
        };
        square.then(|| [family(Kept::Positions(figure.batch * figure.len_q)), family(Kept::Batch(figure.batch))])
    }

    fn holds(&self, figure: &Figure) -> bool {
        Self::of(figure).is_some_and(|families| families.contains(self))
    }

    /// The dimension and the mask, and what else tells it from the papers' 16 K positions in f16, 2048 wide.
    fn file(&self) -> String {
        let size = match self.kept {
            Kept::Positions(16384) if self.heads * self.head_dim == 2048 => String::new(),
            Kept::Positions(positions) => format!("-p{positions}h{}", self.heads),
            Kept::Batch(batch) => format!("-b{batch}h{}", self.heads),
        };
        let dtype = if self.dtype == "f16" { String::new() } else { format!("-{}", self.dtype) };
        format!("{SPEED}{}-{}{size}{dtype}.svg", self.head_dim, self.mask)
    }

    fn title(&self, device: &str) -> String {
        let mask = if self.mask == "full" { "no mask".to_owned() } else { format!("{} mask", self.mask) };
        let size = match self.kept {
            Kept::Positions(positions) => format!("batch × length {positions}"),
            Kept::Batch(batch) => format!("batch {batch}"),
        };
        format!(
            "TFLOP/s: head dimension {}, {}, {mask}; {size}, {} heads; {device}",
            self.head_dim, self.dtype, self.heads
        )
    }
}

/// The families with enough lengths, and their lengths.
fn families(evidence: &Evidence) -> BTreeMap<Family, BTreeSet<usize>> {
    let mut found: BTreeMap<Family, BTreeSet<usize>> = BTreeMap::new();
    for entry in evidence.records.iter().flat_map(|record| &record.entries) {
        for family in Family::of(&entry.figure).into_iter().flatten() {
            found.entry(family).or_default().insert(entry.figure.len_q);
        }
    }
    found.retain(|_, lengths| lengths.len() >= LENGTHS);
    found
}

/// One contender's line.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    peer: bool,
    stale: bool,
    /// Length and TFLOP/s.
    points: Vec<(usize, f64)>,
}

fn lines<'a>(evidence: &'a Evidence, family: &Family) -> Vec<Line<'a>> {
    let rungs = evidence.rungs.iter().enumerate();
    let rungs = rungs.map(|(index, rung)| (rung.id.as_str(), LINES[index % LINES.len()], false));
    let peers = evidence.peers(|figure| family.holds(figure)).into_iter().enumerate();
    let peers = peers.map(|(index, name)| (name, PEER_LINES[index % PEER_LINES.len()], true));
    let line = |(name, color, peer)| {
        let mut points = BTreeMap::new();
        let mut stale = false;
        let entries = evidence.records.iter().flat_map(|record| &record.entries);
        for entry in entries.filter(|entry| entry.figure.contender == name && family.holds(&entry.figure)) {
            let Some(problem) = entry.figure.problem() else { continue };
            let Some(pick) = evidence.pick(name, &problem) else { continue };
            stale |= pick.entry.stale;
            points.insert(entry.figure.len_q, problem.flops() / pick.entry.figure.median_us * 1e-6);
        }
        Line { name, color, peer, stale, points: points.into_iter().collect() }
    };
    rungs.chain(peers).map(line).filter(|line| !line.points.is_empty()).collect()
}

/// What a matrix product of these elements reached; the most where several records say.
fn ceiling(evidence: &Evidence, dtype: &str) -> Option<f64> {
    let ceilings = evidence.records.iter().flat_map(|record| &record.ceilings);
    ceilings.filter(|ceiling| ceiling.dtype == dtype).map(|ceiling| ceiling.matmul_tflops).max_by(f64::total_cmp)
}

/// TFLOP/s against length, a line a contender.
fn speed(evidence: &Evidence, family: &Family, lengths: &BTreeSet<usize>) -> Result<String, ReportError> {
    let mut lines = lines(evidence, family);
    let ceiling = ceiling(evidence, &family.dtype);
    let speeds = lines.iter().flat_map(|line| &line.points).map(|(_, tflops)| *tflops);
    let most = speeds.chain(ceiling).fold(0.0, f64::max);
    let place = |length: usize| (length as f64).log2();
    let ends = lengths.first().zip(lengths.last()).map_or((0.0, 1.0), |(first, last)| (place(*first), place(*last)));
    let paint = |area: &Area<'_>| -> Drawn {
        text(area, &family.title(device(evidence)), (64, 16), 16, HPos::Left, &INK)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(36)
            .margin_right(140)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(ends.0 - 0.1..ends.1 + 0.1, 0.0..most * 1.07)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .axis_style(INK)
            .bold_line_style(INK.mix(0.3))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 13, &INK))
            .y_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        let mut right = 0;
        for length in lengths {
            let at = chart.backend_coord(&(place(*length), 0.0));
            text(area, &length.to_string(), (at.0, at.1 + 14), 13, HPos::Center, &INK)?;
            right = at.0;
        }
        let floor = chart.backend_coord(&(ends.0, 0.0));
        text(area, "length", ((floor.0 + right) / 2, floor.1 + 36), 13, HPos::Center, &INK)?;

        if let Some(tflops) = ceiling {
            let ends = [(ends.0 - 0.1, tflops), (ends.1 + 0.1, tflops)];
            chart.draw_series(DashedLineSeries::new(ends, 2, 3, INK.stroke_width(1)))?;
            let at = chart.backend_coord(&ends[0]);
            text(area, "a large matrix product", (at.0 + 6, at.1 - 9), 12, HPos::Left, &INK)?;
        }
        for line in &lines {
            let points = line.points.iter().map(|(length, tflops)| (place(*length), *tflops));
            let style = line.color.stroke_width(2);
            match line.peer {
                true => chart.draw_series(DashedLineSeries::new(points.clone(), 6, 4, style))?,
                false => chart.draw_series(LineSeries::new(points.clone(), style))?,
            };
            chart.draw_series(points.map(|point| Circle::new(point, 3, line.color.filled())))?;
        }
        // Names at the lines' right ends, from the top down and pushed apart where they would touch.
        const APART: i32 = 16;
        let last = |line: &Line<'_>| line.points.last().map_or(0.0, |(_, tflops)| *tflops);
        lines.sort_by(|left, right| last(right).total_cmp(&last(left)));
        let (mut top, edge) = (0, chart.backend_coord(&(ends.1 + 0.1, 0.0)).0 + 10);
        for line in &lines {
            let height = chart.backend_coord(&(ends.1, last(line))).1.max(top + APART);
            let stale = if line.stale { " (stale)" } else { "" };
            text(area, &format!("{}{stale}", line.name), (edge, height), 14, HPos::Left, &line.color)?;
            top = height;
        }
        Ok(())
    };
    draw((760, 420), paint)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::evidence;
    use super::super::tests::{entry, record};
    use super::*;
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
        evidence.records[0].ceilings[0].dtype = "bf16".to_owned();
        evidence
    }

    #[test]
    fn lengths_make_lines_and_the_mission_makes_bars() {
        let names =
            |evidence: &Evidence| plots(evidence).unwrap().into_iter().map(|plot| plot.file).collect::<Vec<_>>();
        assert_eq!(names(&evidence()), ["ladder.svg"]);
        assert_eq!(names(&long()), ["ladder.svg", "speed-d64-causal-bf16.svg"]);
        assert_eq!(names(&Evidence { rungs: vec![], records: vec![] }), [""; 0]);
    }

    #[test]
    fn the_same_evidence_gives_the_same_bytes() {
        let evidence = long();
        let drawn = plots(&evidence).unwrap();
        assert_eq!(plots(&evidence).unwrap(), drawn);
        let texts = [&["v9", "5.18", "47.0 (stale)", "cudnn"][..], &["v9", "2048", "length", "a large matrix product"]];
        for (plot, texts) in drawn.iter().zip(texts) {
            assert!(plot.svg.starts_with("<svg ") && plot.svg.trim_end().ends_with("</svg>"));
            let lines: Vec<&str> = plot.svg.lines().map(str::trim).collect();
            for text in texts {
                assert!(lines.contains(text), "{text}: {}", plot.svg);
            }
        }
    }

    #[test]
    fn problems_of_other_sizes_are_no_line() {
        let figure = |shape: [usize; 4]| {
            let [batch, heads, length, head_dim] = shape;
            entry("v9", &Problem::new(batch, heads, length, head_dim).build().unwrap(), 9.0)
        };
        let of = |shapes: &[[usize; 4]]| {
            let entries = shapes.iter().map(|shape| figure(*shape)).collect();
            let evidence = Evidence { rungs: vec![], records: vec![record("a.json", entries)] };
            families(&evidence).into_keys().map(|family| family.file()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[[1, 8, 512, 64], [2, 8, 2048, 64], [4, 8, 1024, 64]]), [""; 0]);
        assert_eq!(of(&[[1, 8, 64, 64], [1, 8, 128, 64], [1, 8, 512, 64]]), ["speed-d64-full-b1h8.svg"]);
        assert_eq!(of(&[[8, 16, 2048, 128], [4, 16, 4096, 128], [2, 16, 8192, 128]]), ["speed-d128-full.svg"]);
    }
}
