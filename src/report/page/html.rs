//! HTML of a report: the frame of the page, tables, charts.

use serde_json::json;

use crate::report::chart::{Chart, colour, dark_style, html as escaped};

/// Style of the page, without colours of charts.
const STYLE: &str = include_str!("style.css");
/// Hides series, shows values under the pointer, switches between light and dark.
const SCRIPT: &str = include_str!("script.js");

/// The whole page.
pub fn page(title: &str, refresh: Option<u64>, body: &str) -> String {
    let refresh = refresh.map_or(String::new(), |seconds| {
        format!("<meta http-equiv=\"refresh\" content=\"{seconds}\">\n")
    });
    let dark = [
        format!(
            "@media screen and (prefers-color-scheme:dark){{{}}}",
            dark_style(":root:not([data-theme=light])")
        ),
        format!("@media screen{{{}}}", dark_style(":root[data-theme=dark]")),
    ];
    let hidden: String = (0..crate::report::chart::COLOURS)
        .map(|i| {
            let [light, _] = colour(i);
            format!(".hide-{i} svg [stroke=\"{light}\"],.hide-{i} svg [fill=\"{light}\"]{{display:none}}")
        })
        .collect();
    format!(
        "{}\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         {refresh}<title>{title}</title>\n<style>\n{STYLE}{}{}{hidden}\n</style>\n</head>\n<body>\n<header><h1>{title}</h1>\
         <button type=\"button\" id=\"theme\" hidden>light or dark</button></header>\n<main>\n{body}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        super::MARK,
        dark[0],
        dark[1],
        title = escaped(title),
    )
}

/// A section with a heading; nothing if it is empty.
pub fn section(heading: &str, content: &str) -> String {
    match content.is_empty() {
        true => String::new(),
        false => format!("<section>\n<h2>{}</h2>\n{content}</section>\n", escaped(heading)),
    }
}

/// A paragraph.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escaped(text))
}

/// Content that opens when its summary is clicked.
pub fn details(summary: &str, content: &str) -> String {
    format!(
        "<details><summary>{}</summary>\n{content}</details>\n",
        escaped(summary)
    )
}

/// A table. Cells that begin with a digit, or are a dash, are numbers. Nothing without rows.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let number = |cell: &str| cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit());
    let numbers: Vec<bool> = (0..header.len())
        .map(|c| {
            rows.iter()
                .all(|row| row.get(c).is_none_or(|cell| cell.is_empty() || number(cell)))
        })
        .collect();
    let class = |c: usize| if numbers[c] { " class=\"n\"" } else { "" };
    let head: String = header
        .iter()
        .enumerate()
        .map(|(c, cell)| format!("<th{}>{}</th>", class(c), escaped(cell)))
        .collect();
    let cells = |row: &Vec<String>| -> String {
        let cell = |(c, cell): (usize, &String)| format!("<td{}>{}</td>", class(c), escaped(cell));
        format!("<tr>{}</tr>\n", row.iter().enumerate().map(cell).collect::<String>())
    };
    let body: String = rows.iter().map(cells).collect();
    format!("<div class=\"scroll\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n")
}

/// Charts under one legend, whose boxes hide their series.
pub fn charts(charts: &[Chart]) -> String {
    if charts.is_empty() {
        return String::new();
    }
    let mut names: Vec<(String, usize)> = vec![];
    for series in charts.iter().flat_map(|chart| &chart.series) {
        if !names.iter().any(|(name, _)| *name == series.name) {
            names.push((series.name.clone(), series.colour));
        }
    }
    let entry = |(name, series): &(String, usize)| {
        let [light, dark] = colour(*series);
        let series = series % crate::report::chart::COLOURS;
        format!(
            "<label><input type=\"checkbox\" checked data-series=\"{series}\"><i style=\"--light:{light};--dark:{dark}\"></i>{}</label>\n",
            escaped(name)
        )
    };
    let legend: String = names.iter().map(entry).collect();
    let figures: String = charts.iter().map(figure).collect();
    format!(
        "<div class=\"charts\">\n<div class=\"legend\">\n{legend}</div>\n<div class=\"grid\">\n{figures}</div>\n</div>\n"
    )
}

/// A chart with its values, which the script shows.
fn figure(chart: &Chart) -> String {
    let rounded = |value: f64| format!("{value:.6e}").parse::<f64>().unwrap_or(value);
    let series: Vec<_> = chart
        .series
        .iter()
        .map(|s| {
            let points: Vec<[f64; 2]> = s.points.iter().map(|&(x, y)| [rounded(x), rounded(y)]).collect();
            json!({ "name": s.name, "colour": s.colour % crate::report::chart::COLOURS, "points": points })
        })
        .collect();
    let data = json!({ "area": chart.area, "x": chart.x, "xLabel": chart.x_label, "series": series });
    // A name must not end the script element.
    let data = data.to_string().replace('<', "\\u003c");
    format!(
        "<figure>{}<script type=\"application/json\">{data}</script></figure>\n",
        chart.svg
    )
}
