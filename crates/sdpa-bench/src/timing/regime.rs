//! How long a turn is: short turns, or turns in which a contender comes to its own clock and power.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long each contender's turn is. Figures of different regimes are never compared: a device that is held back by its
/// power runs at other clocks in long turns than in short ones, and not every kernel loses the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// A few milliseconds: less than clocks need to follow the power. What records without a regime were taken in.
    #[default]
    Short,
    /// 150 ms or more, of which the first third is not counted.
    Sustained,
}

impl Regime {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Short, Self::Sustained];

    /// Name, as on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Sustained => "sustained",
        }
    }

    /// What a turn runs before its counted part of this length: nothing, or half as long, which is a third of the turn.
    pub fn uncounted(self, counted: Duration) -> Duration {
        match self {
            Self::Short => Duration::ZERO,
            Self::Sustained => counted / 2,
        }
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_of_a_sustained_turn_is_not_counted() {
        let counted = Duration::from_millis(100);
        assert_eq!(Regime::Sustained.uncounted(counted), Duration::from_millis(50));
        assert_eq!(Regime::Short.uncounted(counted), Duration::ZERO);
    }

    #[test]
    fn records_name_them_as_the_command_line_does() {
        for regime in Regime::ALL {
            assert_eq!(serde_json::to_value(regime).unwrap(), regime.name());
        }
    }
}
