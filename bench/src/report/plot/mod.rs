//! Groups of bars as pictures: what to draw is here, `draw` draws it, only with the feature `plots`.

#[cfg(feature = "plots")]
mod draw;

use madkv_testkit::measure::Trouble;

/// Whether this build can draw.
pub(crate) const CAN_DRAW: bool = cfg!(feature = "plots");
/// How many lines the scale has, about.
const LINES: f64 = 5.0;

/// What to draw.
#[cfg_attr(not(feature = "plots"), allow(dead_code, reason = "only what draws reads all of it"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What the scale shows, with its unit.
    pub(crate) scale: String,
    /// Below each group.
    pub(crate) groups: Vec<String>,
    /// Each with a value for each group, where there is one.
    pub(crate) series: Vec<(String, Vec<Option<f64>>)>,
}

impl Bars {
    /// Whether there is anything to see.
    pub(crate) fn is_empty(&self) -> bool {
        self.series.iter().all(|(_, values)| values.iter().all(Option::is_none))
    }

    /// The same picture in each form: how its file's name ends, and the file. None if this build cannot draw.
    ///
    /// # Errors
    /// If it cannot be drawn.
    #[cfg(feature = "plots")]
    pub(crate) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Trouble> {
        Ok(vec![("svg", draw::svg(self)?.into_bytes()), ("png", draw::png(self)?)])
    }

    #[cfg(not(feature = "plots"))]
    pub(crate) fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, Trouble> {
        Ok(Vec::new())
    }

    /// Where the scale ends: at one of its lines.
    #[cfg_attr(not(feature = "plots"), allow(dead_code))]
    fn top(&self) -> f64 {
        let greatest = self.series.iter().flat_map(|(_, values)| values).flatten().copied().fold(0.0, f64::max);
        let step = step(greatest);
        (greatest / step).ceil().max(1.0) * step
    }
}

/// The distance of the scale's lines: 1, 2 or 5 times a power of ten.
fn step(greatest: f64) -> f64 {
    if greatest <= 0.0 {
        return 1.0;
    }
    let rough = greatest / LINES;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough).unwrap_or(10.0);
    factor * power
}

/// Three digits are enough to read.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        10_000.0.. => format!("{:.1}k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_is_a_round_number() {
        let steps = [0.0, 0.9, 4.9, 12.0, 99.0, 60_000.0].map(step);
        let expected = [1.0, 0.2, 1.0, 5.0, 20.0, 20_000.0];
        assert!(steps.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9), "{steps:?}");
    }

    #[test]
    fn top_is_the_line_at_or_above_the_greatest_value() {
        let bars = |values: Vec<Option<f64>>| Bars { series: vec![("RF 1".into(), values)], ..Bars::default() };
        assert!((bars(vec![Some(61_000.0), None]).top() - 80_000.0).abs() < 1e-6);
        assert!((bars(vec![None]).top() - 1.0).abs() < 1e-9);
    }
}
