//! Plots of speed or time against length, a line per contender.

use std::collections::{BTreeMap, BTreeSet};

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::axes::{Axis, Scale, spread};
use super::families::Family;
use super::palette::{self, INK};
use super::{Area, Drawn, draw, text};
use crate::report::{Evidence, ReportError};

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// One contender's line.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    peer: bool,
    stale: bool,
    /// Length and value.
    points: Vec<(usize, f64)>,
}

impl Line<'_> {
    fn label(&self) -> String {
        format!("{}{}", self.name, if self.stale { " *" } else { "" })
    }

    fn last(&self) -> (usize, f64) {
        self.points.last().copied().unwrap_or_default()
    }
}

fn lines<'a>(evidence: &'a Evidence, family: &Family) -> Vec<Line<'a>> {
    let rungs = evidence.rungs.iter().enumerate();
    let rungs = rungs.map(|(index, rung)| (rung.id.as_str(), palette::generation(index), false));
    let peers = evidence.peers(|figure| family.holds(figure)).into_iter();
    let peers = peers.map(|name| (name, palette::peer(name), true));
    let line = |(name, color, peer)| {
        let mut points = BTreeMap::new();
        let mut stale = false;
        let entries = evidence.records.iter().flat_map(|record| &record.entries);
        for entry in entries.filter(|entry| entry.figure.contender == name && family.holds(&entry.figure)) {
            let Some(problem) = entry.figure.problem() else { continue };
            let Some(pick) = evidence.pick(name, &problem) else { continue };
            stale |= pick.entry.stale;
            points.insert(entry.figure.len_kv, family.value(&problem, pick.entry.figure.median_us));
        }
        Line { name, color, peer, stale, points: points.into_iter().collect() }
    };
    rungs.chain(peers).map(line).filter(|line| !line.points.is_empty()).collect()
}

/// What a matrix product of these elements reached; the most where several records say.
fn product(evidence: &Evidence, dtype: &str) -> Option<f64> {
    let ceilings = evidence.records.iter().flat_map(|record| &record.sittings).flat_map(|sitting| &sitting.ceilings);
    ceilings.filter(|ceiling| ceiling.dtype == dtype).map(|ceiling| ceiling.matmul_tflops).max_by(f64::total_cmp)
}

/// The plot of a family.
pub(super) fn speed(evidence: &Evidence, family: &Family, lengths: &BTreeSet<usize>) -> Result<String, ReportError> {
    let lines = lines(evidence, family);
    let values = || lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
    let most = values().fold(0.0, f64::max);
    // A ceiling that is far above every line would press the lines together.
    let ceiling =
        product(evidence, &family.dtype).filter(|ceiling| family.scale() == Scale::Linear && *ceiling < 2.0 * most);
    let axis = Axis::of(family.scale(), values().chain(ceiling));
    let place = |length: usize| (length as f64).log2();
    let ends = lengths.first().zip(lengths.last()).map_or((0.0, 1.0), |(first, last)| (place(*first), place(*last)));
    let widest = lines.iter().map(|line| line.label().chars().count()).max().unwrap_or_default();
    let paint = |area: &Area<'_>| -> Drawn {
        text(area, &family.title(evidence.device()), (16, 16), 15, HPos::Left, &INK)?;
        let (low, high) = axis.ends();
        let mut chart = ChartBuilder::on(area)
            .margin_top(36)
            .margin_right(40 + 8 * u32::try_from(widest).unwrap_or_default())
            .x_label_area_size(48)
            .y_label_area_size(56)
            .build_cartesian_2d(ends.0 - 0.1..ends.1 + 0.1, low..high)?;
        chart.configure_mesh().disable_mesh().x_labels(0).y_labels(0).axis_style(INK).draw()?;
        label_axes(area, &mut chart, &axis, lengths, family.lengths_of())?;
        if let Some(ceiling) = ceiling {
            draw_ceiling(area, &mut chart, ceiling, most)?;
        }
        for line in &lines {
            let points = line.points.iter().map(|(length, value)| (place(*length), axis.place(*value)));
            let style = line.color.stroke_width(2);
            match line.peer {
                true => chart.draw_series(DashedLineSeries::new(points.clone(), 6, 4, style))?,
                false => chart.draw_series(LineSeries::new(points.clone(), style))?,
            };
            chart.draw_series(points.map(|point| Circle::new(point, 3, line.color.filled())))?;
        }
        name_lines(area, &chart, &lines, &axis)?;
        if lines.iter().any(|line| line.stale) {
            text(area, "* the kernel has changed since", (16, HEIGHT - 12), 12, HPos::Left, &INK)?;
        }
        Ok(())
    };
    draw((WIDTH, HEIGHT.unsigned_abs()), paint)
}

const WIDTH: u32 = 760;
const HEIGHT: i32 = 440;

/// A line and a number at round values, and the lengths below.
fn label_axes(area: &Area<'_>, chart: &mut Chart<'_>, axis: &Axis, lengths: &BTreeSet<usize>, what: &str) -> Drawn {
    let range = chart.x_range();
    for value in axis.ticks() {
        let ends = [(range.start, axis.place(value)), (range.end, axis.place(value))];
        chart.draw_series(LineSeries::new(ends, INK.mix(0.3)))?;
        let at = chart.backend_coord(&ends[0]);
        text(area, &short(value), (at.0 - 8, at.1), 13, HPos::Right, &INK)?;
    }
    let floor = chart.y_range().start;
    for length in lengths {
        let at = chart.backend_coord(&((*length as f64).log2(), floor));
        text(area, &length.to_string(), (at.0, at.1 + 14), 13, HPos::Center, &INK)?;
    }
    let at = chart.backend_coord(&((range.start + range.end) / 2.0, floor));
    text(area, what, (at.0, at.1 + 34), 13, HPos::Center, &INK)
}

/// A round number without the digits that arithmetic leaves behind.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a large matrix product reached, as a dashed line.
fn draw_ceiling(area: &Area<'_>, chart: &mut Chart<'_>, ceiling: f64, most: f64) -> Drawn {
    let range = chart.x_range();
    let ends = [(range.start, ceiling), (range.end, ceiling)];
    chart.draw_series(DashedLineSeries::new(ends, 2, 3, INK.stroke_width(1)))?;
    let at = chart.backend_coord(&ends[0]);
    // It is measured, and at the power limit a lighter kernel runs at higher clocks.
    let passed = if most > ceiling { "; no bound, since lighter work clocks higher" } else { "" };
    text(area, &format!("a large matrix product{passed}"), (at.0 + 6, at.1 + 9), 12, HPos::Left, &INK)
}

/// Names at the right, each at the height of its line's end and joined to it, pushed apart where they would touch.
fn name_lines(area: &Area<'_>, chart: &Chart<'_>, lines: &[Line<'_>], axis: &Axis) -> Drawn {
    let end = |line: &Line<'_>| {
        let (length, value) = line.last();
        chart.backend_coord(&((length as f64).log2(), axis.place(value)))
    };
    let mut order: Vec<&Line<'_>> = lines.iter().collect();
    order.sort_by_key(|line| end(line).1);
    let wanted: Vec<i32> = order.iter().map(|line| end(line).1).collect();
    let (x, y) = (chart.x_range(), chart.y_range());
    let (corner, floor) = (chart.backend_coord(&(x.end, y.end)), chart.backend_coord(&(x.end, y.start)).1);
    for (line, height) in order.iter().zip(spread(&wanted, 16, corner.1 + 6, floor - 6)) {
        let from = end(line);
        let joint = [(from.0 + 4, from.1), (corner.0 + 14, height)];
        area.draw(&PathElement::new(joint, line.color.mix(0.4)))?;
        text(area, &line.label(), (corner.0 + 18, height), 14, HPos::Left, &line.color)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.0, 0.2 * 3.0, 5.0, 1200.0].map(short), ["0", "0.6", "5", "1200"]);
    }
}
