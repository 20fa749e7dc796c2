//! A file of records: what `sdpa bench --record` adds to, a sitting at a time.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Record, RecordError};

/// The records of one device's sittings over one grid, the oldest first. A file from before there were several holds one
/// record and is read as one sitting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sittings {
    /// At least one in a file.
    pub sittings: Vec<Record>,
}

impl Sittings {
    /// Reads a file.
    ///
    /// # Errors
    /// [`RecordError`], also where the sittings are of several devices.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| RecordError::System { path: path.to_owned(), source })?;
        let format = |source| RecordError::Format { path: path.to_owned(), source };
        let value = serde_json::from_str(&text).map_err(format)?;
        match Self::of_value(value) {
            Some(found) => found.map_err(format)?.of_one_device(path),
            None => Err(RecordError::NoFigures { path: path.to_owned() }),
        }
    }

    /// [`read`](Self::read), and no sitting where there is no such file.
    ///
    /// # Errors
    /// As there.
    pub fn read_or_none(path: &Path) -> Result<Self, RecordError> {
        match Self::read(path) {
            Err(RecordError::System { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            read => read,
        }
    }

    /// What a file's JSON holds; none of JSON that is neither a record nor several.
    pub fn of_value(value: serde_json::Value) -> Option<Result<Self, serde_json::Error>> {
        if value.get("sittings").is_some() {
            Some(serde_json::from_value(value))
        } else if value.get("figures").is_some() {
            Some(serde_json::from_value(value).map(|record| Self { sittings: vec![record] }))
        } else {
            None
        }
    }

    /// Refuses sittings of several devices, and files without any.
    fn of_one_device(self, path: &Path) -> Result<Self, RecordError> {
        let Some(first) = self.device() else { return Err(RecordError::NoFigures { path: path.to_owned() }) };
        self.check_device(path, first)?;
        Ok(self)
    }

    /// Checks that the sittings of this file are of this device; a file without any may be of each.
    ///
    /// # Errors
    /// [`RecordError::SeveralSittingsDevices`].
    pub fn check_device(&self, path: &Path, device: &str) -> Result<(), RecordError> {
        match self.sittings.iter().find(|sitting| sitting.device != device) {
            Some(other) => Err(RecordError::SeveralSittingsDevices {
                path: path.to_owned(),
                first: device.to_owned(),
                other: other.device.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The device of the first sitting.
    pub fn device(&self) -> Option<&str> {
        self.sittings.first().map(|sitting| sitting.device.as_str())
    }

    /// One record for what compares with the last run: of each contender, problem and regime the figure of the latest
    /// sitting that has one; everything else is the last sitting's.
    pub fn latest(self) -> Record {
        let mut sittings = self.sittings.into_iter().rev();
        let mut latest = sittings.next().unwrap_or_default();
        for earlier in sittings {
            for figure in earlier.figures {
                if latest.beside(&figure.contender, &figure).is_none() {
                    latest.figures.push(figure);
                }
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Figure, Regime, Timing};
    use super::*;
    use sdpa_core::Problem;

    fn figure(contender: &str, regime: Regime, us: f64) -> Figure {
        let problem = Problem::new(1, 8, 512, 64).build().unwrap();
        Figure { regime, ..Figure::new(contender, &problem, &Timing::new(vec![us])) }
    }

    fn sitting(figures: Vec<Figure>) -> Record {
        Record { device: "some GPU".to_owned(), figures, ..Record::default() }
    }

    #[test]
    fn a_record_is_one_sitting_and_a_file_may_hold_several() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu-short-f16.json");
        let write = |text: String| std::fs::write(&path, text).unwrap();
        assert_eq!(Sittings::read_or_none(&path).unwrap(), Sittings::default());
        assert!(matches!(Sittings::read(&path), Err(RecordError::System { .. })));
        let old = sitting(vec![figure("v1", Regime::Short, 5.0)]);
        write(serde_json::to_string(&old).unwrap());
        let mut read = Sittings::read(&path).unwrap();
        assert_eq!(read.sittings, std::slice::from_ref(&old));
        read.sittings.push(sitting(vec![figure("v1", Regime::Short, 6.0)]));
        write(serde_json::to_string(&read).unwrap());
        assert_eq!(Sittings::read_or_none(&path).unwrap(), read);

        read.sittings[1].device = "another GPU".to_owned();
        write(serde_json::to_string(&read).unwrap());
        let error = Sittings::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("holds sittings on some GPU and on another GPU; name another folder"), "{error}");
        for nothing in ["{}", r#"{"sittings": []}"#] {
            write(nothing.to_owned());
            assert!(matches!(Sittings::read(&path), Err(RecordError::NoFigures { .. })), "{nothing}");
        }
        write("{".to_owned());
        assert!(matches!(Sittings::read_or_none(&path), Err(RecordError::Format { .. })));
    }

    #[test]
    fn the_latest_figure_counts_in_each_regime() {
        let first = sitting(vec![figure("v1", Regime::Short, 5.0), figure("v1", Regime::Sustained, 7.0)]);
        let second = sitting(vec![figure("v2", Regime::Short, 3.0), figure("v1", Regime::Short, 6.0)]);
        let latest = Sittings { sittings: vec![first, second] }.latest();
        let found: Vec<_> =
            latest.figures.iter().map(|figure| (figure.contender.as_str(), figure.regime, figure.median_us)).collect();
        assert_eq!(found, [("v2", Regime::Short, 3.0), ("v1", Regime::Short, 6.0), ("v1", Regime::Sustained, 7.0)]);
    }
}
