//! Latencies over the time of a restart: a row for each peer, all on the same
//! axes.

use super::STYLE;
use crate::report::LatencyFigures;
use crate::svg::{Path, Svg};

/// Where the rows are, in pixels.
const LEFT: i32 = 92;
const RIGHT: i32 = 66;
const TOP: i32 = 58;
const ROW: i32 = 76;
/// Between a row and the next; the marks of failures are in it.
const GAP: i32 = 16;
const STEP: i32 = 7;

/// The scale of the latencies, in powers of ten of a millisecond.
const LOWEST: f64 = -1.5;
const HIGHEST: f64 = 4.0;

/// The latencies that have a line.
const LINES: [(f64, &str); 4] = [
    (0.1, "0.1 ms"),
    (1.0, "1 ms"),
    (10.0, "10 ms"),
    (1000.0, "1 s"),
];

/// Milliseconds between two ticks of the time.
const TICK: f64 = 100.0;

/// The picture; `None` if there is nothing to draw.
pub fn draw(peers: &[LatencyFigures]) -> Option<String> {
    let first = &peers.first()?.course;
    let steps = i32::try_from(first.median_ms.len()).ok()?;
    let right = LEFT + steps * STEP;
    let rows = i32::try_from(peers.len()).ok()?;
    let bottom = TOP + rows * (ROW + GAP);
    let x = |milliseconds: f64| {
        LEFT + ((milliseconds - first.from_ms) / first.step_ms * f64::from(STEP)).round() as i32
    };
    let title = "Latency of requests around a restart";
    let mut svg = Svg::new(right + RIGHT, bottom + 40, title, STYLE);
    svg.text(LEFT, 18, "start", "name", title);
    let how = format!(
        "longest in each {:.0} ms, at {:.0} requests a second on kept connections; line: median of {} \
         restarts; area: worst of them; ×: requests that failed",
        first.step_ms, peers[0].rate, peers[0].restarts
    );
    svg.text(LEFT, 34, "start", "small", &how);

    let mut top = TOP;
    for peer in peers {
        row(&mut svg, peer, top, right);
        top += ROW + GAP;
    }

    let mut now = Path::default();
    now.move_to(x(0.0), TOP - GAP);
    now.upright(bottom - GAP);
    svg.path("now", &now);
    let mut tick = (first.from_ms / TICK).ceil() * TICK;
    while x(tick) <= right {
        let text = match tick {
            0.0 => "restart".to_owned(),
            _ => format!("{tick:.0}"),
        };
        svg.text(x(tick), bottom, "middle", "small", &text);
        tick += TICK;
    }
    svg.text(
        right,
        bottom + 16,
        "end",
        "small",
        "milliseconds since the restart was asked for, by when the request was due",
    );
    Some(svg.end())
}

fn row(svg: &mut Svg, peer: &LatencyFigures, top: i32, right: i32) {
    let bottom = top + ROW;
    let y = |milliseconds: f64| {
        let share = (milliseconds.max(1e-9).log10() - LOWEST) / (HIGHEST - LOWEST);
        bottom - (share.clamp(0.0, 1.0) * f64::from(ROW)).round() as i32
    };
    let mut grid = Path::default();
    for (milliseconds, text) in LINES {
        grid.move_to(LEFT, y(milliseconds));
        grid.across(right);
        svg.text(right + 4, y(milliseconds) + 3, "start", "small", text);
    }
    grid.move_to(LEFT, bottom);
    grid.across(right);
    svg.path("grid", &grid);

    let course = &peer.course;
    let mut area = Path::default();
    for (start, run) in runs(&course.highest_ms) {
        area.move_to(LEFT + start * STEP, bottom);
        let mut at = LEFT + start * STEP;
        for milliseconds in run {
            area.upright(y(milliseconds));
            at += STEP;
            area.across(at);
        }
        area.upright(bottom);
        area.close();
    }
    svg.path("area", &area);
    let mut line = Path::default();
    for (start, run) in runs(&course.median_ms) {
        let mut at = LEFT + start * STEP;
        line.move_to(at, y(run[0]));
        for milliseconds in run {
            line.upright(y(milliseconds));
            at += STEP;
            line.across(at);
        }
    }
    svg.path("line", &line);
    let mut marks = Path::default();
    let mut at = LEFT;
    for &failed in &course.failed {
        if failed > 0 {
            marks.cross(at + STEP / 2, top - 4, 3);
        }
        at += STEP;
    }
    svg.path("mark", &marks);

    svg.text(LEFT - 8, top + 20, "end", "name", &peer.peer);
    let (class, text) = match peer.failed {
        0 => ("small", "none failed".to_owned()),
        failed => ("small bad", format!("{failed} failed")),
    };
    svg.text(LEFT - 8, top + 36, "end", class, &text);
}

/// The stretches in which there are values, each with where it begins.
fn runs(values: &[Option<f64>]) -> Vec<(i32, Vec<f64>)> {
    let mut runs: Vec<(i32, Vec<f64>)> = Vec::new();
    let mut is_open = false;
    for (place, value) in (0..).zip(values) {
        match (value, runs.last_mut()) {
            (Some(value), Some((_, run))) if is_open => run.push(*value),
            (Some(value), _) => runs.push((place, vec![*value])),
            (None, _) => {}
        }
        is_open = value.is_some();
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Course, Latencies};

    /// Latencies that are never twice the same, with a failure every `failing`
    /// steps.
    fn figures(name: &str, failing: usize) -> LatencyFigures {
        let latencies = Latencies {
            answered: 1,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            highest_ms: None,
        };
        let values: Vec<_> = (0..100_i32)
            .map(|step| Some(10_f64.powi(step * 7 % 6 - 2)))
            .collect();
        LatencyFigures {
            peer: name.to_owned(),
            restarts: 20,
            rate: 2000.0,
            steady: latencies.clone(),
            around: latencies,
            failed: failing,
            course: Course {
                from_ms: -150.0,
                step_ms: 15.0,
                median_ms: values.clone(),
                highest_ms: values,
                failed: (0..100)
                    .map(|step| usize::from(failing > 0 && step % failing == 0))
                    .collect(),
            },
        }
    }

    #[test]
    fn nothing_makes_no_picture() {
        assert_eq!(draw(&[]), None);
    }

    #[test]
    fn the_worst_picture_is_small_enough() {
        let peers: Vec<_> = (0..10).map(|n| figures(&format!("peer {n}"), 1)).collect();
        let text = draw(&peers).unwrap();
        assert!(text.len() < 40_000, "{}", text.len());
    }

    #[test]
    fn names_are_text_and_failures_are_marks() {
        let text = draw(&[figures("flawless", 0), figures("flawed", 50)]).unwrap();
        assert!(text.contains(">flawless</text>") && text.contains(">none failed</text>"));
        assert!(text.contains(">flawed</text>") && text.contains(">50 failed</text>"));
        assert_eq!(text.matches("class=\"mark\"").count(), 1);
        let marks = text.split("class=\"mark\"").nth(1).unwrap();
        let marks = marks.split("/>").next().unwrap();
        assert_eq!(marks.matches('M').count(), 2);
    }

    #[test]
    fn it_is_for_light_and_dark() {
        let text = draw(&[figures("one", 0)]).unwrap();
        assert!(text.contains("prefers-color-scheme:dark"));
        // Nothing is behind.
        assert!(!text.contains("<rect") && !text.contains("background"));
    }

    #[test]
    fn every_element_ends() {
        let text = draw(&[figures("one", 3)]).unwrap();
        let count = |what: &str| text.matches(what).count();
        assert_eq!(count("<text "), count("</text>"));
        assert_eq!(count("<path "), count("\"/>"));
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn a_silence_interrupts_the_line() {
        let values = [None, Some(1.0), Some(2.0), None, Some(3.0)];
        assert_eq!(runs(&values), [(1, vec![1.0, 2.0]), (4, vec![3.0])]);
        assert_eq!(runs(&[None, None]), []);
    }
}
