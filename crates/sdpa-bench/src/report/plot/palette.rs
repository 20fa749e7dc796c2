//! One colour per series, the same in every plot: mid-tones that light and dark pages show alike.

use plotters::style::RGBColor;

/// Text, axes and, thinned, the grid. Its contrast is above 4 on white and on GitHub's dark grey.
pub(super) const INK: RGBColor = RGBColor(0x73, 0x7b, 0x84);
/// Bars of generations.
pub(super) const GENERATION: RGBColor = RGBColor(0x3b, 0x82, 0xc4);
/// Bars of peers.
pub(super) const PEER: RGBColor = RGBColor(0xc9, 0x7b, 0x2a);

/// The line of the generation with this index. Twenty are told apart; neighbours in the list are far apart in hue.
pub(super) fn generation(index: usize) -> RGBColor {
    const GOLDEN_ANGLE: f64 = 137.507_764;
    const LIGHTNESS: [f64; 3] = [0.62, 0.53, 0.70];
    oklch(LIGHTNESS[index % LIGHTNESS.len()], 0.135, (250.0 + index as f64 * GOLDEN_ANGLE) % 360.0)
}

/// The line of a peer, by name; peers that are not known share the last.
pub(super) fn peer(name: &str) -> RGBColor {
    match name {
        "flash" => RGBColor(0xb8, 0x84, 0x4e),
        "cudnn" => RGBColor(0x8c, 0x8c, 0x8c),
        "fa3" => RGBColor(0x6e, 0x5a, 0x4a),
        "efficient" => RGBColor(0xa8, 0xa0, 0x76),
        "math" => RGBColor(0x5c, 0x66, 0x70),
        _ => RGBColor(0x6a, 0x72, 0x5a),
    }
}

/// A colour by lightness, chroma and hue in degrees, in Ottosson's OKLCH: equal lightness looks equally light.
fn oklch(lightness: f64, chroma: f64, hue: f64) -> RGBColor {
    let (a, b) = (chroma * hue.to_radians().cos(), chroma * hue.to_radians().sin());
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    let byte = |linear: f64| {
        let linear = linear.clamp(0.0, 1.0);
        let encoded = if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 };
        (encoded * 255.0).round() as u8
    };
    RGBColor(
        byte(4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s),
        byte(-1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s),
        byte(-0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(byte: u8) -> f64 {
        let value = f64::from(byte) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    }

    /// By the rule of the Web's accessibility guidelines.
    fn contrast(left: RGBColor, right: RGBColor) -> f64 {
        let light = |color: RGBColor| 0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2);
        let (left, right) = (light(left), light(right));
        (left.max(right) + 0.05) / (left.min(right) + 0.05)
    }

    #[test]
    fn no_two_series_share_a_colour_and_all_are_seen_on_light_and_on_dark_pages() {
        let peers = ["flash", "cudnn", "fa3", "efficient", "math", "another"];
        let colors: Vec<RGBColor> = (0..20).map(generation).chain(peers.map(peer)).collect();
        for (index, color) in colors.iter().enumerate() {
            for page in [RGBColor(0xff, 0xff, 0xff), RGBColor(0x0d, 0x11, 0x17)] {
                assert!(contrast(*color, page) > 2.2, "{index}: {color:?} on {page:?}: {}", contrast(*color, page));
            }
            for other in &colors[..index] {
                let apart = |left: u8, right: u8| f64::from(left.abs_diff(right)).powi(2);
                let distance = (apart(color.0, other.0) + apart(color.1, other.1) + apart(color.2, other.2)).sqrt();
                assert!(distance > 24.0, "{index}: {color:?} and {other:?} are {distance:.0} apart");
            }
        }
    }
}
