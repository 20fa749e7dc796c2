//! The one list of generations. The choice, tests, benches, tables and the program are made from it.

use sdpa_core::Attention;

/// Calls `$callback!` once, with one `(id, feature, type);` per generation, oldest first.
///
/// A new generation is one line here, and one dependency in this crate's Cargo.toml with its name under `all`; `sdpa new` writes
/// them.
#[macro_export]
macro_rules! for_each_generation {
    ($callback:ident) => {
        $callback! {
            (v1, "v1", v1::V1);
            (v2b, "v2b", v2b::V2b);
            (v2c, "v2c", v2c::V2c);
            (v2d, "v2d", v2d::V2d);
            (v2e, "v2e", v2e::V2e);
            (v2f, "v2f", v2f::V2f);
            (v2g, "v2g", v2g::V2g);
            (v3, "v3", v3::V3);
            (v3b, "v3b", v3b::V3b);
            (v3c, "v3c", v3c::V3c);
            (v3d, "v3d", v3d::V3d);
            (v3e, "v3e", v3e::V3e);
            (v2h, "v2h", v2h::V2h);
            (v2i, "v2i", v2i::V2i);
            (v3f, "v3f", v3f::V3f);
            (v3g, "v3g", v3g::V3g);
            (v2j, "v2j", v2j::V2j);
            (v2k, "v2k", v2k::V2k);
            (v3h, "v3h", v3h::V3h);
            (v2l, "v2l", v2l::V2l);
            (v2m, "v2m", v2m::V2m);
        }
    };
}

macro_rules! collect {
    ($(($id:ident, $feature:literal, $generation:path);)*) => {
        /// Every generation that this build carries (see this crate's features), oldest first.
        pub static ALL: &[&dyn Attention] = &[$(#[cfg(feature = $feature)] &$generation),*];

        #[cfg(not(any($(feature = $feature),*)))]
        compile_error!("crate `sdpa` without a generation computes nothing: choose a feature, such as `v2d`, or `all`");

        /// The ids as the list has them.
        #[cfg(test)]
        const LISTED: &[&str] = &[$(#[cfg(feature = $feature)] stringify!($id)),*];
    };
}

for_each_generation!(collect);

/// The generation with this id.
pub fn find(id: &str) -> Option<&'static dyn Attention> {
    ALL.iter().copied().find(|generation| generation.generation().id == id)
}

/// All ids, oldest first.
pub fn ids() -> Vec<&'static str> {
    ALL.iter().map(|generation| generation.generation().id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_calls_every_generation_by_its_id() {
        assert_eq!(ids(), LISTED);
    }
}
