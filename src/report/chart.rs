//! Charts as SVG.
//!
//! Colours are fixed attributes, which a style sheet replaces for dark pages (`page/style.css`): text and axes, grid lines, and one
//! colour per series, so that a page hides a series by its colour.

use std::error::Error as StdError;

use plotters::chart::ChartContext;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Size in pixels. Text keeps its size on phones, which show one chart per line.
const SIZE: (u32, u32) = (440, 290);
/// Text and axes.
const INK: RGBColor = RGBColor(0x33, 0x33, 0x32);
/// Grid lines.
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdc);
/// Pixels of text.
const TEXT: f64 = 12.0;
/// plotters writes font sizes divided by this.
const FONT_FACTOR: f64 = 1.24;
/// Number of series colours; further series begin again with the first.
pub const COLOURS: usize = 12;
/// Colours of series on white, then on black: distinct to colour-blind readers, and of contrast 3 to 1 or more.
const SERIES: [(RGBColor, &str); COLOURS] = [
    (RGBColor(0x00, 0x6b, 0xb3), "#4fb0f0"),
    (RGBColor(0xc7, 0x51, 0x00), "#ff9a4d"),
    (RGBColor(0x0a, 0x7f, 0x5e), "#35c79a"),
    (RGBColor(0xa8, 0x3c, 0x86), "#e884c6"),
    (RGBColor(0x6a, 0x55, 0xc2), "#a697ff"),
    (RGBColor(0x8a, 0x6d, 0x00), "#d9b526"),
    (RGBColor(0xb8, 0x26, 0x3c), "#ff7d8e"),
    (RGBColor(0x4f, 0x5d, 0x6b), "#a9b8c6"),
    (RGBColor(0x00, 0x77, 0x84), "#3fc3d1"),
    (RGBColor(0x7a, 0x45, 0x1f), "#c98a5c"),
    (RGBColor(0x5b, 0x7f, 0x1c), "#9fcb4d"),
    (RGBColor(0xd1, 0x3b, 0x7b), "#ff83b4"),
];

/// Title and axes of a chart.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Above the chart.
    pub title: String,
    /// Below the horizontal axis.
    pub x: String,
    /// Beside the vertical axis.
    pub y: String,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A line through the points.
    Line,
    /// A line that keeps each value until the next point.
    Step,
    /// Points alone.
    Point,
}

/// A series of points.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Position among the colours.
    pub colour: usize,
    /// How it is drawn.
    pub mark: Mark,
    /// Points in ascending order of x; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// For each point the lower and the upper end of a band, or of an error bar; or empty.
    pub band: Vec<(f64, f64)>,
}

/// A drawn chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The SVG element.
    pub svg: String,
    /// Pixels of the plotted area: left, right, top, bottom.
    pub area: [i32; 4],
    /// First and last value of the horizontal axis.
    pub x: [f64; 2],
    /// Title of the horizontal axis.
    pub x_label: String,
    /// The series to draw.
    pub series: Vec<Series>,
}

/// Draws series; `None` if no point is finite, or drawing fails.
pub fn series(labels: &Labels, series: &[Series]) -> Option<Chart> {
    let points = |s: &Series| s.points.iter().copied().filter(finite).collect::<Vec<_>>();
    let ends = |s: &Series| {
        let x = s.points.iter().map(|p| p.0);
        let bands = x.zip(&s.band).flat_map(|(x, band)| [(x, band.0), (x, band.1)]);
        bands.filter(finite).collect::<Vec<_>>()
    };
    let all: Vec<(f64, f64)> = series.iter().flat_map(|s| [points(s), ends(s)].concat()).collect();
    let x = range(all.iter().map(|p| p.0), 0.0)?;
    let y = range(all.iter().map(|p| p.1), 0.06)?;
    let points_alone = series.iter().all(|s| s.mark == Mark::Point);
    let x = if points_alone { range(x.into_iter(), 0.06)? } else { x };
    let draw = |chart: &mut Context<'_, '_>| series.iter().try_for_each(|s| draw(chart, s));
    let (svg, area) = chart(labels, x, y, draw).ok()?;
    Some(Chart {
        svg,
        area,
        x,
        x_label: labels.x.clone(),
        series: series.to_vec(),
    })
}

/// Draws the histograms of several lists of values, as outlines over the same bins.
pub fn histogram(labels: &Labels, lists: &[(String, Vec<f64>)]) -> Option<Chart> {
    const BINS: usize = 24;
    let values = lists.iter().flat_map(|(_, list)| list.iter().copied());
    let [low, high] = range(values, 0.0)?;
    let width = ((high - low) / BINS as f64).max(1.0).ceil();
    let bins = ((high - low) / width) as usize + 1;
    let outline = |(colour, (name, list)): (usize, &(String, Vec<f64>))| {
        let mut counts = vec![0.0; bins + 1];
        let bin = |value: &f64| (((value - low) / width) as usize).min(bins - 1);
        list.iter().for_each(|value| counts[bin(value)] += 1.0);
        let points = counts
            .iter()
            .enumerate()
            .map(|(i, &count)| (low + i as f64 * width, count));
        Series {
            name: name.clone(),
            colour,
            mark: Mark::Step,
            points: points.collect(),
            band: vec![],
        }
    };
    series(labels, &lists.iter().enumerate().map(outline).collect::<Vec<_>>())
}

fn finite(point: &(f64, f64)) -> bool {
    point.0.is_finite() && point.1.is_finite()
}

/// Smallest and largest value, widened by a share on both sides; `None` without finite values.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Option<[f64; 2]> {
    let ends = |[low, high]: [f64; 2], value: f64| [low.min(value), high.max(value)];
    let [low, high] = values
        .filter(|v| v.is_finite())
        .fold([f64::INFINITY, f64::NEG_INFINITY], ends);
    if low > high {
        return None;
    }
    let width = if high > low {
        high - low
    } else {
        (high.abs() * 0.1).max(1e-3)
    };
    let margin = if high > low { margin * width } else { 0.5 * width };
    Some([low - margin, high + margin])
}

type Context<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn = Result<(), Box<dyn StdError>>;

fn chart(
    labels: &Labels,
    x: [f64; 2],
    y: [f64; 2],
    draw: impl FnOnce(&mut Context<'_, '_>) -> Drawn,
) -> Result<(String, [i32; 4]), Box<dyn StdError>> {
    let mut svg = String::new();
    let area = {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let text = |size: f64| ("sans-serif", size * FONT_FACTOR).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&root)
            .margin_right(14)
            .margin_top(6)
            .caption(&labels.title, text(TEXT + 1.0))
            .x_label_area_size(40)
            .y_label_area_size(58)
            .build_cartesian_2d(x[0]..x[1], y[0]..y[1])?;
        chart
            .configure_mesh()
            .x_labels(6)
            .y_labels(6)
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(text(TEXT))
            .axis_desc_style(text(TEXT))
            .x_desc(&labels.x)
            .y_desc(&labels.y)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        draw(&mut chart)?;
        let (across, down) = chart.plotting_area().get_pixel_range();
        root.present()?;
        [across.start, across.end, down.start, down.end]
    };
    Ok((svg, area))
}

fn draw(chart: &mut Context<'_, '_>, series: &Series) -> Drawn {
    let (colour, _) = SERIES[series.colour % COLOURS];
    let kept: Vec<usize> = (0..series.points.len())
        .filter(|&i| finite(&series.points[i]))
        .collect();
    let points: Vec<(f64, f64)> = kept.iter().map(|&i| series.points[i]).collect();
    let band: Vec<(f64, f64, f64)> = kept
        .iter()
        .filter_map(|&i| series.band.get(i).map(|&(low, high)| (series.points[i].0, low, high)))
        .filter(|(_, low, high)| low.is_finite() && high.is_finite())
        .collect();
    if series.mark == Mark::Point {
        for (x, low, high) in band {
            chart.draw_series([PathElement::new([(x, low), (x, high)], colour.stroke_width(1))])?;
        }
        let dot = |&point: &(f64, f64)| Circle::new(point, 4, colour.filled());
        chart.draw_series(points.iter().map(dot))?;
        return Ok(());
    }
    if band.len() > 1 {
        let upper = band.iter().map(|&(x, _, high)| (x, high));
        let outline: Vec<_> = upper.chain(band.iter().rev().map(|&(x, low, _)| (x, low))).collect();
        chart.draw_series([Polygon::new(outline, colour.mix(0.18))])?;
    }
    let line = match series.mark {
        Mark::Step => stairs(&points),
        Mark::Line | Mark::Point => points,
    };
    match line[..] {
        [only] => chart.draw_series([Circle::new(only, 3, colour.filled())])?,
        _ => chart.draw_series([PathElement::new(line, colour.stroke_width(2))])?,
    };
    Ok(())
}

/// Adds the corners of a line that keeps each value until the next point.
fn stairs(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let corners = points.windows(2).flat_map(|pair| [pair[0], (pair[1].0, pair[0].1)]);
    corners.chain(points.last().copied()).collect()
}

/// A number at an axis: at most four digits, thousands and millions as `12k` and `3M`.
pub fn number(value: f64) -> String {
    let short = |value: f64| {
        let text = format!("{value:.3}");
        match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        }
    };
    match value.abs() {
        0.0 => "0".into(),
        a if a < 1e-3 => format!("{value:.1e}"),
        a if a < 1e4 => short(value),
        a if a < 1e6 => format!("{}k", short(value / 1e3)),
        a if a < 1e9 => format!("{}M", short(value / 1e6)),
        a if a < 1e12 => format!("{}G", short(value / 1e9)),
        _ => format!("{value:.2e}"),
    }
}

/// The colour of a series, as in CSS, on white and on black.
pub fn colour(series: usize) -> [String; 2] {
    let (RGBColor(r, g, b), dark) = SERIES[series % COLOURS];
    [format!("#{r:02X}{g:02X}{b:02X}"), dark.to_owned()]
}

/// The style sheet that adapts charts to dark pages, for selectors that begin with `scope`.
pub fn dark_style(scope: &str) -> String {
    let plain = [(INK, "#d6d6d4"), (GRID, "#3b3b3a")];
    let all = plain.iter().chain(&SERIES);
    all.map(|(RGBColor(r, g, b), dark)| {
        let light = format!("#{r:02X}{g:02X}{b:02X}");
        format!("{scope} [stroke=\"{light}\"]{{stroke:{dark}}}{scope} [fill=\"{light}\"]{{fill:{dark}}}")
    })
    .collect()
}

/// A chart as a file of its own, with a legend, light or dark as the reader's system is.
pub fn alone(chart: &Chart) -> String {
    let mut legend = String::new();
    for (
        i,
        Series {
            name, colour: series, ..
        },
    ) in chart.series.iter().enumerate()
    {
        let ([light, _], y) = (colour(*series), chart.area[2] + 14 + 16 * i as i32);
        let (x, name) = (chart.area[1] - 8, html(name));
        legend += &format!(
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{light}\">{name}</text>\n"
        );
    }
    let style = format!(
        "<style>@media (prefers-color-scheme: dark){{svg{{background:#1b1b1a}}{}}}</style>\n",
        dark_style("svg")
    );
    let end = chart.svg.rfind("</svg>").unwrap_or(chart.svg.len());
    let body = &chart.svg[..end];
    let start = body.find('>').map_or(0, |at| at + 1);
    format!("{}\n{style}{}{legend}</svg>\n", &body[..start], &body[start..])
}

/// Escapes text for HTML and SVG, with control characters visible.
pub fn html(text: &str) -> String {
    let text = super::escape::name(text);
    let escapes = [
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&quot;"),
        ('\'', "&#39;"),
    ];
    escapes
        .iter()
        .fold(text.into_owned(), |text, (c, escaped)| text.replace(*c, escaped))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Series {
        Series {
            name: "a <b>".into(),
            colour: 0,
            mark: Mark::Line,
            points: points.to_vec(),
            band: vec![],
        }
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [0.0, 0.98, 1234.5, 12_000.0, 3.2e6, 4.5e9, -0.25, 1e-5];
        let texts: Vec<String> = numbers.into_iter().map(number).collect();
        assert_eq!(texts, ["0", "0.98", "1234.5", "12k", "3.2M", "4.5G", "-0.25", "1.0e-5"]);
    }

    #[test]
    fn draws_what_is_finite() {
        let labels = Labels::default();
        let gaps = line(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)]);
        let chart = series(&labels, &[gaps]).unwrap();
        assert!(
            !chart.svg.contains("NaN") && chart.svg.contains(&colour(0)[0]),
            "{}",
            chart.svg
        );
        assert_eq!(chart.x, [0.0, 2.0]);
        assert!(series(&labels, &[line(&[(f64::NAN, 1.0)])]).is_none());
        assert!(series(&labels, &[]).is_none());
        // One point, and a constant, still have axes.
        assert!(series(&labels, &[line(&[(5.0, 5.0)])]).is_some());
        assert!(alone(&chart).contains("a &lt;b&gt;"));
    }
}
