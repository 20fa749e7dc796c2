//! The one list of generations. The choice, tests, benches, tables and the program are made from it.

use sdpa_core::Attention;

/// Calls `$callback!` once, with one `(id, type);` per generation, oldest first.
///
/// A new generation is one line here and one dependency in this crate's Cargo.toml; `sdpa new` writes both.
#[macro_export]
macro_rules! for_each_generation {
    ($callback:ident) => {
        $callback! {
            (v1, sdpa_v1::V1);
            (v2b, sdpa_v2b::V2b);
            (v2c, sdpa_v2c::V2c);
            (v2d, sdpa_v2d::V2d);
            (v2e, sdpa_v2e::V2e);
            (v2f, sdpa_v2f::V2f);
            (v2g, sdpa_v2g::V2g);
            (v3, sdpa_v3::V3);
            (v3b, sdpa_v3b::V3b);
            (v3c, sdpa_v3c::V3c);
            (v3d, sdpa_v3d::V3d);
            (v3e, sdpa_v3e::V3e);
        }
    };
}

macro_rules! collect {
    ($(($id:ident, $generation:path);)*) => {
        /// Every generation, oldest first.
        pub static ALL: &[&dyn Attention] = &[$(&$generation),*];

        /// The ids as the list has them.
        #[cfg(test)]
        const LISTED: &[&str] = &[$(stringify!($id)),*];
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
