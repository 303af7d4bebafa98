//! Groups of bars as a picture (SVG), on a white ground so that it can be read in dark pages too.

use std::fmt::Write as _;

/// The picture's size, and the room around the bars, in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 40.0;
/// How much of a group's room its bars take.
const GROUP_SHARE: f64 = 0.8;
/// How many lines the scale has, about.
const LINES: f64 = 5.0;
/// One colour for each bar of a group; told apart by people with any colour vision (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// What to draw.
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

    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = self.write(&mut svg);
        svg
    }

    fn write(&self, svg: &mut String) -> std::fmt::Result {
        let greatest = self.series.iter().flat_map(|(_, values)| values).flatten().copied().fold(0.0, f64::max);
        let step = step(greatest);
        let top = (greatest / step).ceil().max(1.0) * step;
        let height = |value: f64| value / top * (HEIGHT - TOP - BOTTOM);
        let floor = HEIGHT - BOTTOM;
        let font = r#"font-family="sans-serif" font-size="12" fill="black""#;
        let size = format!(r#"viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}""#);
        writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>"#)?;
        writeln!(svg, r#"<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#)?;
        writeln!(
            svg,
            r#"<text x="{}" y="20" text-anchor="middle" font-size="15">{}</text>"#,
            WIDTH / 2.0,
            escaped(&self.title)
        )?;
        writeln!(
            svg,
            r#"<text x="14" y="{}" text-anchor="middle" transform="rotate(-90 14 {0})">{}</text>"#,
            TOP.midpoint(floor),
            escaped(&self.scale)
        )?;

        let lines = (top / step).round() as u32;
        for line in 0..=lines {
            let value = f64::from(line) * step;
            let y = floor - height(value);
            writeln!(svg, r##"<line x1="{LEFT}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}" stroke="#ddd"/>"##, WIDTH - RIGHT)?;
            writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                LEFT - 6.0,
                y + 4.0,
                number(value)
            )?;
        }

        let room = (WIDTH - LEFT - RIGHT) / self.groups.len().max(1) as f64;
        let bar = room * GROUP_SHARE / self.series.len().max(1) as f64;
        for (place, group) in self.groups.iter().enumerate() {
            let middle = LEFT + room * (place as f64 + 0.5);
            writeln!(
                svg,
                r#"<text x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
                floor + 18.0,
                escaped(group)
            )?;
            for (number_of, (_, values)) in self.series.iter().enumerate() {
                let x = middle - room * GROUP_SHARE / 2.0 + bar * number_of as f64;
                let centre = x + bar / 2.0;
                match values.get(place).copied().flatten() {
                    Some(value) => {
                        let (high, colour) = (height(value), COLOURS[number_of % COLOURS.len()]);
                        writeln!(
                            svg,
                            r#"<rect x="{x:.1}" y="{:.1}" width="{:.1}" height="{high:.1}" fill="{colour}"/>"#,
                            floor - high,
                            bar - 2.0
                        )?;
                        writeln!(
                            svg,
                            r#"<text x="{centre:.1}" y="{:.1}" text-anchor="middle" font-size="9">{}</text>"#,
                            floor - high - 3.0,
                            number(value)
                        )?;
                    }
                    None => writeln!(
                        svg,
                        r##"<text x="{centre:.1}" y="{:.1}" text-anchor="middle" fill="#999">?</text>"##,
                        floor - 3.0
                    )?,
                }
            }
        }
        let mut x = LEFT;
        for (place, (name, _)) in self.series.iter().enumerate() {
            writeln!(
                svg,
                r#"<rect x="{x:.1}" y="32" width="12" height="12" fill="{}"/>"#,
                COLOURS[place % COLOURS.len()]
            )?;
            writeln!(svg, r#"<text x="{:.1}" y="42">{}</text>"#, x + 17.0, escaped(name))?;
            x += 40.0 + 7.0 * name.chars().count() as f64;
        }
        writeln!(svg, "</svg>")
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
    fn svg_has_a_bar_for_each_value_and_a_mark_for_each_missing_one() {
        let bars = Bars {
            title: "a < b".into(),
            scale: "ops/s".into(),
            groups: vec!["A".into(), "B".into()],
            series: vec![("RF 1".into(), vec![Some(10.0), None]), ("RF 3".into(), vec![Some(5.0), Some(2.0)])],
        };
        let svg = bars.svg();
        // The ground, two in the legend, three bars.
        assert_eq!(svg.matches("<rect").count(), 6, "{svg}");
        assert_eq!(svg.matches(">?</text>").count(), 1, "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
        assert!(!bars.is_empty());
    }

    #[test]
    fn svg_without_values_is_still_a_picture() {
        let bars = Bars { groups: vec!["A".into()], series: vec![("RF 1".into(), vec![None])], ..Bars::default() };
        assert!(bars.is_empty());
        assert!(!bars.svg().contains("NaN"));
    }
}
