//! The screen: how far the run is, rates against the schedule, times, the chart, errors, the generator itself.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Chart, Dataset, GraphType, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::board::Board;
use super::{Wish, lock};
use crate::judge::{MOST_CPU, MOST_LAG};
use crate::report::words;

/// The longest that a key waits to be seen.
const GLANCE: Duration = Duration::from_millis(50);
/// How often the clock on the screen moves.
const TICK: Duration = Duration::from_millis(500);
/// Kinds of errors that are listed; there is room for no more. The report has all.
const MOST_KINDS: usize = 5;

/// What a piece of text means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Quiet,
    Head,
    Good,
    Warn,
    Bad,
}

/// Draws until the run is over.
pub(super) fn run(
    mut terminal: DefaultTerminal,
    board: &Mutex<Board>,
    over: &AtomicBool,
    wish: impl Fn(Wish),
) -> io::Result<()> {
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let began = Instant::now();
    let mut drawn: Option<Instant> = None;
    let mut screen = Screen { colours, wishes: 0, elapsed: Duration::ZERO };
    while !over.load(Ordering::Acquire) {
        if drawn.is_none_or(|at| at.elapsed() >= TICK) {
            screen.elapsed = began.elapsed();
            let board = lock(board).clone();
            terminal.draw(|frame| screen.draw(frame, &board))?;
            drawn = Some(Instant::now());
        }
        if !event::poll(GLANCE)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if ends(key) => {
                wish(if screen.wishes == 0 { Wish::End } else { Wish::Hurry });
                screen.wishes += 1;
                drawn = None;
            }
            Event::Resize(..) => drawn = None,
            _ => {}
        }
    }
    Ok(())
}

fn ends(key: KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release && (control_c || key.code == KeyCode::Char('q'))
}

struct Screen {
    colours: bool,
    /// How often the person asked to end.
    wishes: u32,
    elapsed: Duration,
}

impl Screen {
    fn draw(&self, frame: &mut Frame<'_>, board: &Board) {
        let errors = self.errors(board);
        let [head, numbers, chart, below, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(7),
            Constraint::Fill(1),
            Constraint::Length(errors.len() as u16),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(self.head(board, usize::from(head.width))), head);
        frame.render_widget(Paragraph::new(self.numbers(board)), numbers);
        if chart.height >= 5 {
            self.chart(frame, chart, board);
        }
        frame.render_widget(Paragraph::new(errors), below);
        let text = match self.wishes {
            0 => "Ctrl-C ends the run early, and still reports".to_owned(),
            _ => format!(
                "ending: {} requests are open; Ctrl-C again doesn't wait for them",
                words::count(board.newest.in_flight)
            ),
        };
        frame.render_widget(
            Paragraph::new(self.line([(text, if self.wishes == 0 { Tone::Quiet } else { Tone::Warn })])),
            foot,
        );
    }

    fn head(&self, board: &Board, width: usize) -> Vec<Line<'static>> {
        let all = board.lasts.as_secs_f64().max(0.001);
        let done = (self.elapsed.as_secs_f64() / all).min(1.0);
        let left = board.lasts.saturating_sub(self.elapsed);
        let left = if left.is_zero() {
            "schedule over, waiting for the last answers".to_owned()
        } else {
            format!("{} left", words::span(left.as_secs_f64().ceil() as u64))
        };
        let clock =
            format!(" {} of {}, {left}", words::span(self.elapsed.as_secs()), words::span(board.lasts.as_secs()));
        let room = width.saturating_sub(clock.chars().count() + 1).clamp(4, 60);
        let full = (done * room as f64).round() as usize;
        vec![
            self.line([(format!("tidegate load {}  ", board.name), Tone::Head), (board.load.clone(), Tone::Quiet)]),
            self.line([("█".repeat(full), Tone::Good), ("░".repeat(room - full), Tone::Quiet), (clock, Tone::Plain)]),
        ]
    }

    fn numbers(&self, board: &Board) -> Vec<Line<'static>> {
        let now = &board.newest;
        let failed: u64 = now.failures.values().sum();
        let behind = board.open_model && now.sent < now.due - now.due / 50;
        let mut rates = vec![
            (format!("{:<9}", "RATE/S"), Tone::Head),
            (format!("due {:>8}  ", words::count(now.due)), Tone::Plain),
            (format!("sent {:>8}  ", words::count(now.sent)), if behind { Tone::Bad } else { Tone::Good }),
            (format!("good {:>8}  ", words::count(now.good)), Tone::Plain),
            (format!("failed {:>6}", words::count(failed)), if failed > 0 { Tone::Bad } else { Tone::Plain }),
        ];
        if board.sums[2] > 0 {
            rates.push((format!("  unsent {}", words::count(now.unsent)), Tone::Bad));
        }
        let errors = board.errors();
        let tone = if errors == 0.0 { Tone::Good } else { Tone::Bad };
        let so_far = [
            (format!("{:<9}", "SO FAR"), Tone::Head),
            (format!("due {:>8}  ", words::count(board.sums[0])), Tone::Plain),
            (format!("sent {:>8}  ", words::count(board.sums[1])), Tone::Plain),
            (format!("good {:>8}  ", words::count(board.sums[3])), Tone::Plain),
            (format!("errors {:>6}", words::share(errors)), tone),
        ];
        let busy = now.cpu > MOST_CPU;
        let late = now.lag > MOST_LAG;
        let open = [
            (format!("{:<9}", "OPEN"), Tone::Head),
            (
                format!("in flight {}  connections {}", words::count(now.in_flight), words::count(now.connections)),
                Tone::Plain,
            ),
            ("   generator: lag p99 ".to_owned(), Tone::Quiet),
            (words::time(now.lag), if late { Tone::Warn } else { Tone::Plain }),
            ("  CPU ".to_owned(), Tone::Quiet),
            (words::share((now.cpu * 100.0).round() / 100.0), if busy { Tone::Warn } else { Tone::Plain }),
        ];
        let row = |name: &str, cells: [String; 5], tone: Tone| {
            let cells: String = cells.iter().map(|cell| format!("{cell:>11}")).collect();
            self.line([(format!("{name:<17}"), Tone::Head), (cells, tone)])
        };
        let told = |times: [u64; 5]| times.map(|nanos| if nanos == 0 { "-".to_owned() } else { words::time(nanos) });
        vec![
            self.line(rates),
            self.line(so_far),
            self.line(open),
            row("TIME", ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned), Tone::Quiet),
            row("response, now", told(now.response), Tone::Plain),
            row("response, so far", told(five(&board.response)), Tone::Plain),
            row("service, so far", told(five(&board.service)), Tone::Quiet),
        ]
    }

    fn chart(&self, frame: &mut Frame<'_>, area: Rect, board: &Board) {
        let points = |of: fn(&(u32, u64, u64)) -> u64| -> Vec<(f64, f64)> {
            board.past.iter().filter(|it| of(it) > 0).map(|it| (f64::from(it.0) + 1.0, of(it) as f64 / 1e6)).collect()
        };
        let (median, high) = (points(|it| it.1), points(|it| it.2));
        let top = high.iter().map(|it| it.1).fold(0.001, f64::max) * 1.05;
        let last = f64::from(board.newest.at) + 1.0;
        let first = board.past.front().map_or(0.0, |it| f64::from(it.0));
        let set = |name: &'static str, data, tone: Tone| {
            Dataset::default()
                .name(name)
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(self.style(tone))
                .data(data)
        };
        let quiet = self.style(Tone::Quiet);
        let ms = |part: f64| words::time((top * part * 1e6) as u64);
        let second = |at: f64| words::span(at as u64);
        let chart = Chart::new(vec![set("p50", &median, Tone::Good), set("p99", &high, Tone::Warn)])
            .x_axis(
                Axis::default()
                    .style(quiet)
                    .bounds([first, last.max(first + 1.0)])
                    .labels([second(first), second(last)]),
            )
            .y_axis(Axis::default().style(quiet).bounds([0.0, top]).labels(["0".to_owned(), ms(0.5), ms(1.0)]));
        frame.render_widget(chart, area);
    }

    fn errors(&self, board: &Board) -> Vec<Line<'static>> {
        let mut kinds: Vec<_> = board.failures.iter().filter(|(_, count)| **count > 0).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let line = |(kind, count): (&crate::Failure, &u64)| {
            let example = board.examples.get(kind).map_or(String::new(), |text| format!("  {}", one_line(text)));
            let head = format!("{:>9}  {}", words::count(*count), kind.text());
            self.line([(head, Tone::Bad), (example, Tone::Quiet)])
        };
        let mut lines: Vec<_> = kinds.iter().take(MOST_KINDS).map(|it| line(*it)).collect();
        if kinds.len() > MOST_KINDS {
            lines.push(self.line([(format!("{:>9}  kinds more", kinds.len() - MOST_KINDS), Tone::Quiet)]));
        }
        lines
    }

    fn line(&self, pieces: impl IntoIterator<Item = (String, Tone)>) -> Line<'static> {
        pieces.into_iter().map(|(text, tone)| Span::styled(text, self.style(tone))).collect()
    }

    fn style(&self, tone: Tone) -> Style {
        match tone {
            Tone::Head => Style::new().add_modifier(Modifier::BOLD),
            Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
            Tone::Plain => Style::new(),
            _ if !self.colours => Style::new(),
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Warn => Style::new().fg(Color::Yellow),
            Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

/// What a server said may hold anything; control characters would move the cursor.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn five(times: &Histogram<u64>) -> [u64; 5] {
    if times.is_empty() { [0; 5] } else { [0.5, 0.9, 0.99, 0.999, 1.0].map(|q| times.value_at_quantile(q)) }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::report::sample;

    fn drawn(width: u16, height: u16, wishes: u32) -> String {
        let mut board = Board::new(&sample::plan());
        let run = sample::run(34);
        let times = run.all.response.whole().unwrap();
        run.seconds.iter().for_each(|second| board.beat(second, &times, &times));
        board.examples.insert(crate::Failure::ServerError, "503 Service\u{1b}[2J Unavailable".to_owned());
        let screen = Screen { colours: true, wishes, elapsed: Duration::from_secs(34) };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, &board)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn eighty_columns_show_time_left_rates_times_chart_and_errors() {
        let text = drawn(80, 24, 0);

        for wanted in ["34 s of 1 min, 26 s left", "due      200", "p99.9", "so far", "status 5xx", "Ctrl-C ends", "⠈"]
        {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn small_screen_keeps_numbers_and_leaves_out_the_chart() {
        let text = drawn(60, 14, 0);

        assert!(text.contains("so far") && text.contains("Ctrl-C"), "{text}");
    }

    #[test]
    fn first_control_c_is_acknowledged() {
        let text = drawn(80, 24, 1);

        assert!(text.contains("ending: ") && text.contains("Ctrl-C again"), "{text}");
    }

    #[test]
    fn plain_line_sums_up_what_came_since_the_last_one() {
        let mut board = Board::new(&sample::plan());
        let run = sample::run(10);
        let times = run.all.response.whole().unwrap();

        run.seconds.iter().take(5).for_each(|second| board.beat(second, &times, &times));
        let first = board.line();
        run.seconds.iter().skip(5).for_each(|second| board.beat(second, &times, &times));
        let second = board.line();

        assert!(first.trim_start().starts_with("5 s  due     200/s  good"), "{first}");
        assert!(second.trim_start().starts_with("10 s  due     200/s  good"), "{second}");
    }
}
