//! Bars drawn with `plotters`, by the same strokes as SVG and as PNG, on a white ground so that they can be read in
//! dark pages too.
//!
//! Text in a PNG needs a font. It comes with the program, so that pictures look alike on all machines, and those
//! without any fonts can draw: `plotters` itself would look for the system's, by way of a C library. Of a picture's
//! pixels the crate `png` makes the file; what `plotters` takes for that reads and writes more formats than this one.

use std::sync::OnceLock;

use madkv_testkit::measure::Trouble;
use plotters::coord::Shift;
use plotters::prelude::{
    BLACK, BitMapBackend, ChartBuilder, Color, DrawingArea, DrawingBackend, IntoDrawingArea, IntoFont, RGBColor,
    Rectangle, SVGBackend, Text, TextStyle, WHITE,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::{Bars, number};

/// The picture's size, and the room around the bars, in pixels.
const WIDTH: u32 = 760;
const HEIGHT: u32 = 340;
const LEFT: u32 = 70;
const RIGHT: u32 = 20;
const TOP: u32 = 62;
const BOTTOM: u32 = 40;
/// Pixels of a PNG for each of an SVG, in both directions: for screens that show text finely.
const PNG_SCALE: u32 = 2;
/// What the font is called. Browsers take theirs of this name for an SVG.
const FONT: &str = "sans-serif";
/// `plotters` takes the height of a line for the size of a font.
const LINE_HEIGHT: f64 = 1.24;
/// How much of a group's room its bars take.
const GROUP_SHARE: f64 = 0.8;
/// Bytes of a pixel.
const PIXEL_BYTES: usize = 3;
/// One colour for each bar of a group; told apart by people with any colour vision (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xd5, 0x5e, 0x00),
];
const LINE_COLOUR: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const MISSING_COLOUR: RGBColor = RGBColor(0x99, 0x99, 0x99);

pub(super) fn svg(bars: &Bars) -> Result<String, Trouble> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
    draw(bars, &area, 1)?;
    drop(area);
    Ok(svg)
}

pub(super) fn png(bars: &Bars) -> Result<Vec<u8>, Trouble> {
    let (width, height) = (WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE);
    let mut pixels = vec![0; (width * height) as usize * PIXEL_BYTES];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    draw(bars, &area, PNG_SCALE)?;
    drop(area);
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(png)
}

fn draw<B>(bars: &Bars, area: &DrawingArea<B, Shift>, scale: u32) -> Result<(), Trouble>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    install_font()?;
    let px = |pixels: u32| (pixels * scale) as i32;
    area.fill(&WHITE)?;
    let title = style(15, scale, HPos::Center, VPos::Center);
    area.draw(&Text::new(bars.title.clone(), (px(WIDTH / 2), px(15)), title))?;

    let groups = bars.groups.len().max(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .margin_top(px(TOP))
        .margin_right(px(RIGHT))
        .x_label_area_size(px(BOTTOM))
        .y_label_area_size(px(LEFT))
        .build_cartesian_2d(0.0..groups, 0.0..bars.top())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .max_light_lines(0)
        .bold_line_style(LINE_COLOUR.stroke_width(scale))
        .axis_style(LINE_COLOUR.stroke_width(scale))
        .y_desc(bars.scale.clone())
        .y_label_formatter(&|value| number(*value))
        .label_style(plain(12, scale))
        .axis_desc_style(plain(12, scale))
        .draw()?;

    let bar = GROUP_SHARE / bars.series.len().max(1) as f64;
    let place_of = |group: usize, series: usize| group as f64 + (1.0 - GROUP_SHARE) / 2.0 + bar * series as f64;
    let figure = style(9, scale, HPos::Center, VPos::Bottom);
    for (number_of, (_, values)) in bars.series.iter().enumerate() {
        let found =
            values.iter().enumerate().filter_map(|(group, value)| Some((place_of(group, number_of), (*value)?)));
        let found: Vec<(f64, f64)> = found.collect();
        let gap = bar * 0.05;
        chart.draw_series(found.iter().map(|&(x, value)| {
            let corners = [(x + gap, 0.0), (x + bar - gap, value)];
            Rectangle::new(corners, COLOURS[number_of % COLOURS.len()].filled())
        }))?;
        let figures = found.iter().map(|&(x, value)| Text::new(number(value), (x + bar / 2.0, value), figure.clone()));
        chart.draw_series(figures)?;
        let missing = values.iter().enumerate().filter(|(_, value)| value.is_none());
        let mark = style(12, scale, HPos::Center, VPos::Bottom).color(&MISSING_COLOUR);
        chart.draw_series(missing.map(|(group, _)| {
            Text::new("?".to_owned(), (place_of(group, number_of) + bar / 2.0, 0.0), mark.clone())
        }))?;
    }

    let below = style(12, scale, HPos::Center, VPos::Center);
    for (group, name) in bars.groups.iter().enumerate() {
        let (x, _) = chart.plotting_area().map_coordinate(&(group as f64 + 0.5, 0.0));
        area.draw(&Text::new(name.clone(), (x, px(HEIGHT - BOTTOM + 14)), below.clone()))?;
    }
    let legend = style(12, scale, HPos::Left, VPos::Center);
    let mut x = px(LEFT);
    for (place, (name, _)) in bars.series.iter().enumerate() {
        let box_of_colour = [(x, px(32)), (x + px(12), px(44))];
        area.draw(&Rectangle::new(box_of_colour, COLOURS[place % COLOURS.len()].filled()))?;
        area.draw(&Text::new(name.clone(), (x + px(17), px(38)), legend.clone()))?;
        x += px(40) + legend.font.box_size(name)?.0 as i32;
    }
    area.present()?;
    Ok(())
}

/// Black text; its size is in pixels of an SVG.
fn plain(size: u32, scale: u32) -> TextStyle<'static> {
    (FONT, f64::from(size * scale) * LINE_HEIGHT).into_font().color(&BLACK)
}

/// The same, and where it lies to the point that is given with it.
fn style(size: u32, scale: u32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    plain(size, scale).pos(Pos::new(horizontal, vertical))
}

/// Gives `plotters` the font, once.
fn install_font() -> Result<(), Trouble> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let install = || register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).is_ok();
    if *DONE.get_or_init(install) { Ok(()) } else { Err("the font of the pictures cannot be read".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bars() -> Bars {
        Bars {
            title: "a < b".into(),
            scale: "ops/s".into(),
            groups: vec!["A".into(), "B".into()],
            series: vec![("RF 1".into(), vec![Some(10.0), None]), ("RF 3".into(), vec![Some(5.0), Some(2.0)])],
        }
    }

    #[test]
    fn svg_has_a_bar_for_each_value_and_a_mark_for_each_missing_one() {
        let svg = svg(&bars()).unwrap();
        // The ground, two in the legend, three bars.
        assert_eq!(svg.matches("<rect").count(), 6, "{svg}");
        assert_eq!(svg.matches(">\n?\n</text>").count(), 1, "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn png_has_the_bars_in_their_colours_and_text() {
        let png = png(&bars()).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (WIDTH * PNG_SCALE, HEIGHT * PNG_SCALE));
        let count = |colour: RGBColor| {
            pixels.chunks_exact(PIXEL_BYTES).filter(|pixel| **pixel == [colour.0, colour.1, colour.2]).count()
        };
        // One bar of the first colour is as high as the other's two, and a half more.
        assert!(count(COLOURS[0]) > count(COLOURS[1]), "{} {}", count(COLOURS[0]), count(COLOURS[1]));
        assert!(count(COLOURS[1]) > 1_000);
        assert_eq!(count(COLOURS[2]), 0);
        let dark = pixels.chunks_exact(PIXEL_BYTES).filter(|pixel| pixel.iter().all(|&part| part < 0x60)).count();
        assert!(dark > 100, "no text: {dark}");
    }

    #[test]
    fn picture_without_values_is_still_a_picture() {
        let bars = Bars { groups: vec!["A".into()], series: vec![("RF 1".into(), vec![None])], ..Bars::default() };
        assert!(bars.is_empty());
        assert!(!svg(&bars).unwrap().contains("NaN"));
        assert!(!png(&bars).unwrap().is_empty());
        assert!(!svg(&Bars::default()).unwrap().is_empty());
    }
}
