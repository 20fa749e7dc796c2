//! Where values lie on an axis, which of them get a label, and where the names of lines stand.

/// How a value becomes a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0.
    Linear,
    /// Equal ratios are equal distances.
    Logarithmic,
}

/// An axis that fits its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    least: f64,
    most: f64,
}

impl Axis {
    /// The axis of these positive values.
    pub(super) fn of(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) =
            values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
        match scale {
            Scale::Linear => Self { scale, least: 0.0, most: most * 1.05 },
            Scale::Logarithmic => Self { scale, least: least / 1.15, most: most * 1.15 },
        }
    }

    /// The place of a value.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.log10(),
        }
    }

    /// Places of its two ends.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.place(self.least), self.place(self.most))
    }

    /// Round values within it, least first.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let decade = |value: f64| 10f64.powi(value.log10().floor() as i32);
        match self.scale {
            Scale::Linear => {
                let rough = self.most / 6.0;
                let step =
                    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade(rough)).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(self.most);
                (0..).map(|index| f64::from(index) * step).take_while(|value| *value <= self.most).collect()
            }
            Scale::Logarithmic => {
                let decades = std::iter::successors(Some(decade(self.least)), |decade| Some(decade * 10.0));
                let round = decades
                    .take_while(|decade| *decade <= self.most)
                    .flat_map(|decade| [1.0, 2.0, 5.0].map(|factor| factor * decade));
                round.filter(|value| (self.least..=self.most).contains(value)).collect()
            }
        }
    }
}

/// Heights of labels that would like to stand at `wanted` (in pixels, from the top down): in the same order, as far apart
/// as `apart` or as the room between `top` and `bottom` allows, and never outside of it.
pub(super) fn spread(wanted: &[i32], apart: i32, top: i32, bottom: i32) -> Vec<i32> {
    let gaps = i32::try_from(wanted.len().saturating_sub(1)).unwrap_or(i32::MAX).max(1);
    let apart = apart.min((bottom - top) / gaps);
    let mut heights = Vec::with_capacity(wanted.len());
    let mut free = top;
    for height in wanted {
        let height = (*height).max(free);
        heights.push(height);
        free = height + apart;
    }
    // Those that were pushed out at the bottom push the others up again.
    let mut free = bottom;
    for height in heights.iter_mut().rev() {
        *height = (*height).min(free);
        free = *height - apart;
    }
    heights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_on_the_axis() {
        let linear = Axis::of(Scale::Linear, [340.0, 632.0].into_iter());
        assert_eq!(linear.ticks(), [0.0, 200.0, 400.0, 600.0]);
        let logarithmic = Axis::of(Scale::Logarithmic, [2.96, 170.0].into_iter());
        assert_eq!(logarithmic.ticks(), [5.0, 10.0, 20.0, 50.0, 100.0]);
        let (low, high) = logarithmic.ends();
        assert!(low < 2.96_f64.log10() && high > 170_f64.log10());
    }

    #[test]
    fn labels_stay_inside_and_in_order() {
        assert_eq!(spread(&[10, 100, 200], 16, 0, 300), [10, 100, 200]);
        assert_eq!(spread(&[290, 295, 299], 16, 0, 300), [268, 284, 300]);
        assert_eq!(spread(&[0, 0, 0], 16, 8, 300), [8, 24, 40]);
        // Too many for the distance: closer, and still inside.
        let many = spread(&[150; 40], 16, 0, 300);
        assert!(many.is_sorted() && many[0] >= 0 && many[39] <= 300, "{many:?}");
        assert_eq!(spread(&[], 16, 0, 300), [0; 0]);
    }
}
