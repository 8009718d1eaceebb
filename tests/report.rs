//! `rigl-xla report`: the page about runs, and their metrics as CSV.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::runs::Runs;
use common::{error, failed, json, rigl_xla};

/// Two methods with two seeds, each in a folder under one folder.
fn sweep() -> Runs {
    let runs = Runs::new();
    for (method, seed) in [("rigl", "1"), ("rigl", "2"), ("set", "1"), ("set", "2")] {
        runs.train(
            &format!("sweep/{method}-{seed}"),
            &["--steps", "50", "--method", method, "--seed", seed],
        );
    }
    runs
}

#[test]
fn one_page_shows_runs_grouped_by_seed() {
    let runs = sweep();
    let (folder, page) = (runs.path("sweep"), runs.path("page.html"));
    let [folder, page] = [&folder, &page].map(|path| path.to_str().unwrap());
    let report = json(&["report", folder, "--output", page, "--title", "a <b> & \"c\""]);
    let groups = report["report"]["groups"].as_array().unwrap();
    let labels: Vec<_> = groups.iter().map(|group| group["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["rigl 0.98", "set 0.98"]);
    for group in groups {
        let members = group["runs"].as_array().unwrap();
        let seeds: Vec<_> = members.iter().map(|run| run["seed"].as_u64().unwrap()).collect();
        assert_eq!(seeds, [1, 2]);
        // The same statistics from the metrics themselves.
        let of = |run: &serde_json::Value| {
            let lines = runs.metrics(&format!("sweep/{}", run["name"].as_str().unwrap()));
            lines
                .iter()
                .rev()
                .find_map(|line| line["eval"]["top1"].as_f64())
                .unwrap()
        };
        let [a, b] = [of(&members[0]), of(&members[1])];
        assert!((group["top1"]["mean"].as_f64().unwrap() - (a + b) / 2.0).abs() < 1e-12);
        assert!((group["top1"]["std"].as_f64().unwrap() - (a - b).abs() / 2f64.sqrt()).abs() < 1e-12);
    }
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("<h1>a &lt;b&gt; &amp; &quot;c&quot;</h1>"));
    for outside in ["http://", "https://", "src=\"/", "@import", "url("] {
        let found = html.replace("http://www.w3.org/2000/svg", "").find(outside);
        assert!(found.is_none(), "{outside} at {found:?}: the page needs no network");
    }
    for heading in [
        "Runs",
        "Curves",
        "Accuracy, sparsity and cost",
        "Schedules",
        "Topology",
        "Configuration",
        "Environment and digests",
    ] {
        assert!(html.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
    assert!(html.contains("layer1") && html.contains("data:image/png;base64,") && html.contains("± "));
    // Written again it is the same, and a file of another kind stays.
    json(&["report", folder, "--output", page, "--title", "a <b> & \"c\""]);
    assert_eq!(fs::read_to_string(page).unwrap(), html);
    fs::write(page, "mine").unwrap();
    assert!(error(&["report", folder, "--output", page], 2).contains("--overwrite"));
    assert_eq!(fs::read_to_string(page).unwrap(), "mine");
    chromium(&runs);
}

/// The page in a browser: nothing is wider than a phone, the legend hides lines, values show under the pointer. Skipped without
/// Chromium.
fn chromium(runs: &Runs) {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| {
            Command::new(name)
                .arg("--version")
                .output()
                .is_ok_and(|output| output.status.success())
        })
    else {
        eprintln!("skipped: no Chromium");
        return;
    };
    let (folder, page) = (runs.path("sweep"), runs.path("checked.html"));
    json(&["report", folder.to_str().unwrap(), "--output", page.to_str().unwrap()]);
    let check = r#"<script>
      const found = [];
      window.addEventListener("error", e => found.push("error: " + e.message));
      addEventListener("load", () => {
        const wide = document.documentElement.scrollWidth - innerWidth;
        if (wide > 0) found.push("too wide by " + wide);
        const box = document.querySelector(".legend input"), charts = box.closest(".charts");
        const lines = () => [...charts.querySelectorAll("svg *")].filter(e => getComputedStyle(e).display === "none").length;
        if (lines()) found.push("hidden at first");
        box.click();
        if (!lines()) found.push("the legend hides nothing");
        box.click();
        const figure = charts.querySelector("figure"), svg = figure.querySelector("svg").getBoundingClientRect();
        figure.dispatchEvent(new PointerEvent("pointermove", {clientX: svg.left + svg.width / 2, clientY: svg.top + svg.height / 2}));
        const tip = figure.querySelector(".tip");
        if (!tip || !/^iterations [\d,]+rigl 0.98: [\d.]+set 0.98: [\d.]+$/.test(tip.textContent)) found.push("tip: " + tip?.textContent);
        const page = () => getComputedStyle(document.body).backgroundColor, before = page();
        document.getElementById("theme").click();
        if (page() === before) found.push("one theme only");
        document.title = "checked: " + found.join("; ");
      });
    </script>"#;
    let html = fs::read_to_string(&page).unwrap();
    fs::write(&page, html.replace("<body>", &format!("<body>{check}"))).unwrap();
    for size in ["500,900", "1400,900"] {
        let profile = tempfile::tempdir().unwrap();
        let output = Command::new(browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
                "--virtual-time-budget=5000",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={size}"))
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout);
        let title = dom
            .split("<title>")
            .nth(1)
            .and_then(|rest| rest.split("</title>").next());
        assert_eq!(title, Some("checked: "), "{size}");
    }
}

#[test]
fn metrics_become_csv() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "20"]);
    let output = rigl_xla(&["report", runs.path("run").to_str().unwrap(), "--csv"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|key| *key == name).unwrap();
    let metrics = runs.metrics("run");
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), metrics.len());
    for (row, line) in rows.iter().zip(&metrics) {
        assert_eq!(row[0], "run");
        assert_eq!(row[column("iteration")], line["iteration"].to_string());
        let loss = line.get("loss").map_or(String::new(), ToString::to_string);
        assert_eq!(row[column("loss")], loss);
    }
    assert!(header.contains(&"eval.top1"));
}

#[test]
fn a_watched_page_follows_a_run() {
    let runs = Runs::new();
    runs.train("run", &["--steps", "25"]);
    let page = runs.path("page.html");
    // As a run that is not at its end.
    let config = runs.path("run").join("config.toml");
    let shorter = fs::read_to_string(&config).unwrap();
    fs::write(&config, shorter.replace("iterations = 25", "iterations = 50")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    command
        .args(["report", "--watch", "--output"])
        .arg(&page)
        .arg(runs.path("run"));
    let refreshes = |page: &Path| fs::read_to_string(page).is_ok_and(|html| html.contains("http-equiv=\"refresh\""));
    let mut child = common::runs::start_until(command, || refreshes(&page));
    runs.train("run", &["--steps", "50", "--resume"]);
    assert!(child.wait().unwrap().success());
    assert!(!refreshes(&page));
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.contains("<td class=\"n\">50</td>"), "iterations");
}

#[test]
fn names_what_cannot_be_reported() {
    let runs = Runs::new();
    let none = runs.path("none");
    fs::create_dir(&none).unwrap();
    assert!(error(&["report", none.to_str().unwrap()], 2).contains("no run there"));
    assert!(error(&["report"], 2).contains("<RUN>"));
    fs::write(none.join("config.toml"), "nonsense = 1").unwrap();
    assert!(error(&["report", none.to_str().unwrap()], 2).contains("config.toml"));
    runs.train("run", &["--steps", "7", "--allow-incomplete-schedule"]);
    let metrics = runs.path("run").join("metrics.jsonl");
    // Lines that are cut or no objects are left out.
    let text = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, format!("{text}[1]\n\"x\"\n{{\"iteration\":")).unwrap();
    json(&["report", runs.path("run").to_str().unwrap()]);
    fs::write(runs.path("run").join("topology.journal"), "damaged").unwrap();
    assert!(failed(&["report", runs.path("run").to_str().unwrap()], 1).contains("topology.journal"));
}
