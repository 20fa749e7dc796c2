//! A candidate as a generation: its parent's plans with its own kernels.

use std::collections::BTreeMap;

use sdpa_core::{Attention, DeviceLimits, Extensions, Generation, LaunchPlan, Problem, Specialisation, Unsupported};

use super::niche::Niche;

/// A generation whose kernels of a run's problems are compiled from other text, or with other numbers. It declines what other kernels of
/// the table would take.
pub struct Variant {
    parent: &'static dyn Attention,
    generation: Generation,
    /// The table's kernel, and the candidate's.
    kernels: Vec<(Specialisation, Specialisation)>,
}

impl Variant {
    /// The candidate `id`, with these definitions changed, for the kernels that the niches take on a device with these limits. What it
    /// is made of lives as long as the program, which judges one candidate.
    ///
    /// # Errors
    /// In words: no niche is taken, or the numbers do not go together.
    pub fn new(
        id: &str,
        parent: &'static dyn Attention,
        defines: &BTreeMap<String, String>,
        niches: &[Niche],
        limits: &DeviceLimits,
    ) -> Result<&'static Self, String> {
        let mut table: Vec<Specialisation> = Vec::new();
        for niche in niches {
            let refused = |reason: Unsupported| format!("niche {}: {reason}", niche.name);
            let plan = parent.plan(&niche.timed.problem, limits).map_err(refused)?;
            table.extend(plan.launches.iter().map(|launch| launch.kernel));
            table.extend(niche.counted.kernels(parent).map_err(refused)?);
        }
        table.dedup();
        let mut distinct: Vec<Specialisation> = Vec::new();
        for kernel in table {
            if !distinct.contains(&kernel) {
                distinct.push(kernel);
            }
        }
        let unknown = |name: &&String| !distinct.iter().any(|kernel| kernel.define(name).is_some());
        if let Some(name) = defines.keys().find(unknown) {
            return Err(format!("none of the kernels of this run's problems is compiled with {name}"));
        }
        let own = |kernel: Specialisation| Ok((kernel, own_kernel(id, parent, kernel, defines, limits)?));
        Ok(Self::of(id, parent, distinct.into_iter().map(own).collect::<Result<_, String>>()?))
    }

    /// The candidate with every kernel of the generation that its numbers allow.
    pub fn whole(
        id: &str,
        parent: &'static dyn Attention,
        defines: &BTreeMap<String, String>,
        limits: &DeviceLimits,
    ) -> &'static Self {
        let table = parent.generation().specialisations.iter().copied();
        let kernels = table.filter_map(|kernel| Some((kernel, own_kernel(id, parent, kernel, defines, limits).ok()?)));
        Self::of(id, parent, kernels.collect())
    }

    fn of(id: &str, parent: &'static dyn Attention, kernels: Vec<(Specialisation, Specialisation)>) -> &'static Self {
        let specialisations: Vec<Specialisation> = kernels.iter().map(|(_, own)| *own).collect();
        let who = parent.generation();
        let generation = Generation {
            id: leak(id.to_owned()),
            parent: Some(who.id),
            specialisations: Box::leak(specialisations.into_boxed_slice()),
            ..who.clone()
        };
        Box::leak(Box::new(Self { parent, generation, kernels }))
    }
}

/// A kernel of the table with the candidate's numbers.
fn own_kernel(
    id: &str,
    parent: &dyn Attention,
    kernel: Specialisation,
    defines: &BTreeMap<String, String>,
    limits: &DeviceLimits,
) -> Result<Specialisation, String> {
    let changed = |define: &&'static str| match define.split_once('=').and_then(|(name, _)| defines.get_key_value(name))
    {
        Some((name, value)) => leak(format!("{name}={value}")),
        None => *define,
    };
    let changed: Vec<&'static str> = kernel.defines.iter().map(changed).collect();
    // Another name, so that a device tells it from the table's and from other candidates'.
    let named = Specialisation {
        name: leak(format!("{}+{id}", kernel.name)),
        defines: Box::leak(changed.into_boxed_slice()),
        ..kernel
    };
    let resized = parent
        .resized(named)
        .ok_or_else(|| format!("{kernel}: the numbers {defines:?} do not go together, or take too much memory"))?;
    if resized.shared_bytes > limits.shared_bytes_per_block {
        return Err(format!(
            "{kernel} with {defines:?} needs {} bytes of shared memory a block; the device allows {}",
            resized.shared_bytes, limits.shared_bytes_per_block
        ));
    }
    Ok(resized)
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

impl Attention for Variant {
    fn generation(&self) -> &Generation {
        &self.generation
    }

    fn needs(&self) -> Extensions {
        self.parent.needs()
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let mut plan = self.parent.plan(problem, limits)?;
        for launch in &mut plan.launches {
            let (generation, kernel) = (self.generation.id, launch.kernel.name);
            let own = self.kernels.iter().find(|(table, _)| *table == launch.kernel);
            let (_, own) = own.ok_or(Unsupported::NotBuilt { generation, kernel })?;
            launch.kernel = *own;
            launch.block = [own.threads, 1, 1];
            launch.shared_bytes = own.shared_bytes;
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn a_candidate_plans_as_its_parent_with_its_own_kernels() {
        let v2d = generations::find("v2d").unwrap();
        let niches = [Niche::named("short", v2d).unwrap()];
        let of = |value: &str| {
            let defines = [("TILE_KEYS".to_owned(), value.to_owned())].into();
            Variant::new("c7", v2d, &defines, &niches, &DeviceLimits::H200)
        };
        let variant = of("64").unwrap();
        let problem = &niches[0].timed.problem;
        let plan = variant.plan(problem, &DeviceLimits::H200).unwrap();
        let parents = v2d.plan(problem, &DeviceLimits::H200).unwrap();
        assert_eq!(plan.launches[0].grid, parents.launches[0].grid);
        assert_eq!(plan.launches[0].kernel.name, "f16_d64_m64+c7");
        assert_eq!(plan.launches[0].kernel.number("TILE_KEYS"), Some(64));
        assert!(plan.launches[0].shared_bytes < parents.launches[0].shared_bytes);
        // Kernels that are not of the run's problems are not built.
        let wide = Problem::new(1, 8, 512, 128).build().unwrap();
        assert!(matches!(variant.plan(&wide, &DeviceLimits::H200), Err(Unsupported::NotBuilt { .. })));
        assert!(of("512").err().unwrap().contains("do not go together"));
        let whole = Variant::whole("c7", v2d, &[("TILE_KEYS".to_owned(), "64".to_owned())].into(), &DeviceLimits::H200);
        assert!(whole.plan(&wide, &DeviceLimits::H200).is_ok());
        assert!(whole.generation().specialisations.contains(&variant.generation().specialisations[0]));
    }
}
