//! The terminal: draws the newest view, listens to keys, and keeps trying when the gateway is away.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{self, Span};
use ratatui::widgets::Paragraph;

use super::layout::{self, FIXED_LINES, Line, Tone};
use super::scrape::{Admin, Reading};
use super::view::View;

/// The longest that a key or a new reading waits to be seen.
const GLANCE: Duration = Duration::from_millis(50);

/// Takes the terminal until the person quits, and gives it back as it was, also on panic.
///
/// `notes` stand below the view, where the terminal is high enough for both.
pub(super) fn run(admin: Admin, every: Duration, notes: Vec<String>) -> anyhow::Result<()> {
    let readings = read_in_background(admin.clone(), every);
    let mut terminal = ratatui::try_init().context("could not use the terminal")?;
    let done = Screen::new(admin, notes).run(&mut terminal, &readings);
    ratatui::restore();
    done
}

/// Reads on a thread of its own, so that keys work while the gateway doesn't answer. It ends with its receiver.
fn read_in_background(admin: Admin, every: Duration) -> Receiver<anyhow::Result<Reading>> {
    let (out, readings) = sync_channel(1);
    thread::spawn(move || {
        loop {
            let began = Instant::now();
            if out.send(admin.read()).is_err() {
                return;
            }
            thread::sleep(every.saturating_sub(began.elapsed()));
        }
    });
    readings
}

struct Screen {
    admin: Admin,
    notes: Vec<String>,
    last: Option<Reading>,
    view: Option<View>,
    /// Why the last reading failed, and when that began.
    lost: Option<(String, Instant)>,
    paused: bool,
    scroll: usize,
    colours: bool,
}

/// What a key asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Quit,
    Stay,
}

impl Screen {
    fn new(admin: Admin, notes: Vec<String>) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { admin, notes, last: None, view: None, lost: None, paused: false, scroll: 0, colours }
    }

    fn run(
        mut self,
        terminal: &mut DefaultTerminal,
        readings: &Receiver<anyhow::Result<Reading>>,
    ) -> anyhow::Result<()> {
        let mut stale = true;
        loop {
            if let Ok(reading) = readings.try_recv() {
                self.take(reading);
                stale = true;
            }
            if stale {
                terminal.draw(|frame| self.draw(frame))?;
                stale = false;
            }
            if !event::poll(GLANCE)? {
                continue;
            }
            stale = true;
            if let Event::Key(key) = event::read()?
                && self.press(key) == Wish::Quit
            {
                return Ok(());
            }
        }
    }

    fn take(&mut self, reading: anyhow::Result<Reading>) {
        match reading {
            Ok(reading) => {
                self.lost = None;
                if let (Some(last), false) = (&self.last, self.paused) {
                    self.view = Some(View::between(last, &reading));
                }
                self.last = Some(reading);
            }
            Err(err) => {
                let since = self.lost.take().map_or_else(Instant::now, |(_, since)| since);
                self.lost = Some((format!("{err:#}"), since));
            }
        }
    }

    fn press(&mut self, key: KeyEvent) -> Wish {
        const PAGE: usize = 10;
        if key.kind == KeyEventKind::Release {
            return Wish::Stay;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => self.scroll = self.scroll.saturating_sub(1),
            KeyCode::PageDown => self.scroll += PAGE,
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(PAGE),
            KeyCode::Home => self.scroll = 0,
            KeyCode::End => self.scroll = usize::MAX,
            _ => {}
        }
        Wish::Stay
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let [head, body, notes, foot] = Layout::vertical([
            Constraint::Length(FIXED_LINES as u16),
            Constraint::Fill(1),
            Constraint::Length(self.notes_height(frame.area().height)),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let lines = self.notes.iter().map(|note| Line(vec![(note.clone(), Tone::Plain)])).collect();
        frame.render_widget(Paragraph::new(self.painted(lines)), notes);
        let Some(view) = &self.view else {
            let text = if self.lost.is_some() { "" } else { "reading…" };
            frame.render_widget(Paragraph::new(text), head);
            self.draw_foot(frame, foot, 0);
            return;
        };
        let mut lines = layout::lines(view, usize::from(body.width));
        let rest = lines.split_off(FIXED_LINES);
        let hidden = rest.len().saturating_sub(usize::from(body.height));
        self.scroll = self.scroll.min(hidden);

        frame.render_widget(Paragraph::new(self.painted(lines)), head);
        let shown = rest.into_iter().skip(self.scroll).take(usize::from(body.height)).collect();
        frame.render_widget(Paragraph::new(self.painted(shown)), body);
        self.draw_foot(frame, foot, hidden - self.scroll);
    }

    /// Lines for the notes: all of them or none, and never more than a third of the screen.
    fn notes_height(&self, screen: u16) -> u16 {
        u16::try_from(self.notes.len()).ok().filter(|&lines| lines <= screen / 3).unwrap_or(0)
    }

    fn draw_foot(&self, frame: &mut Frame<'_>, area: Rect, below: usize) {
        let line = if let Some((why, since)) = &self.lost {
            Line(vec![(format!("no connection for {}s, trying again: {why}", since.elapsed().as_secs()), Tone::Bad)])
        } else {
            let mut text = format!("{}  q quit  ↑↓ scroll  space pause", self.admin);
            if self.paused {
                text.push_str("  PAUSED");
            }
            if below > 0 {
                text.push_str(&format!("  {below} more below"));
            }
            Line(vec![(text, Tone::Quiet)])
        };
        frame.render_widget(Paragraph::new(self.painted(vec![line])), area);
    }

    /// The lines with their tones as styles. What is old because the connection is lost is all dim.
    fn painted(&self, lines: Vec<Line>) -> Vec<text::Line<'static>> {
        let style = |tone| match tone {
            Tone::Head => Style::new().add_modifier(Modifier::BOLD),
            Tone::Quiet => Style::new().add_modifier(Modifier::DIM),
            Tone::Plain => Style::new(),
            _ if !self.colours => Style::new(),
            Tone::Good => Style::new().fg(Color::Green),
            Tone::Warn => Style::new().fg(Color::Yellow),
            Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        };
        let paint = |line: Line| line.0.into_iter().map(|(text, tone)| Span::styled(text, style(tone))).collect();
        lines.into_iter().map(paint).collect()
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::tests::{after, before};
    use super::*;

    fn screen() -> Screen {
        Screen::new("127.0.0.1:9900".parse().unwrap(), Vec::new())
    }

    fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_fits_eighty_columns() {
        let mut screen = screen();

        screen.take(Ok(before()));
        screen.take(Ok(after()));

        insta::assert_snapshot!(drawn(&mut screen, 80, 24), @r#"
        "tidegate 0.1.0  serving  generation 7  up 3m12s  last change refused            "
        "121/s  errors 4.1 %  p50 1ms  p99 9.9ms  in flight 4  up 2/3                    "
        "                                                                                "
        "ROUTE                 VERSION   WEIGHT RATE/S  ERR %    P50    P99     UP   BUSY"
        "shop                  shop/v1     95 %    100      5    1ms  9.9ms    1/2      3"
        "shop                  shop/v2      5 %      0      -      -      -    1/1      1"
        "shop                  (gateway)            20      0      -      -              "
        "a-route-with-quite-…  shop/v2    drain      0      -      -      -    1/1      1"
        "(no route)            (gateway)             1      0      -      -              "
        "                                                                                "
        "SHADOW OF  VERSION SAMPLE SENT/S DROP/S FAIL %    P99 DIFF %  DIFFS             "
        "shop       shop/v2   10 %     10      0     10      -     50      9             "
        "                                                                                "
        "LIMIT  PASSED/S REFUSED/S BANNED/S   KEYS                                       "
        "per_ip      100        20        0     12                                       "
        "                                                                                "
        "ENDPOINTS THAT AREN'T WELL                                                      "
        "shop/v1@127.0.0.1:9002  ejected, back in 12s  5 failures in a row               "
        "shop/v2@127.0.0.1:9011  warming up, at 25 %                                     "
        "                                                                                "
        "                                                                                "
        "                                                                                "
        "                                                                                "
        "127.0.0.1:9900  q quit  ↑↓ scroll  space pause                                  "
        "#);
    }

    #[test]
    fn lost_connection_is_said_while_the_last_view_stays_and_the_next_reading_clears_it() {
        let mut screen = screen();
        screen.take(Ok(before()));
        screen.take(Ok(after()));

        screen.take(Err(anyhow::anyhow!("connection refused")));
        let lost = drawn(&mut screen, 80, 24);
        screen.take(Ok(after()));
        let back = drawn(&mut screen, 80, 24);

        assert!(lost.contains("trying again: connection refused") && lost.contains("shop/v1"), "{lost}");
        assert!(!back.contains("connection refused"), "{back}");
    }

    #[test]
    fn notes_stand_above_the_foot_and_give_way_on_a_small_screen() {
        let mut screen = Screen::new("127.0.0.1:9900".parse().unwrap(), vec!["try this".into(), "or that".into()]);
        screen.take(Ok(before()));
        screen.take(Ok(after()));

        let high = drawn(&mut screen, 80, 24);
        let low = drawn(&mut screen, 80, 5);

        let lines: Vec<_> = high.lines().map(|line| line.trim_matches(['"', ' '])).collect();
        assert_eq!(lines[21..23], ["try this", "or that"], "{high}");
        assert!(!low.contains("try this"), "{low}");
    }

    #[test]
    fn scrolling_stops_at_both_ends() {
        let mut screen = screen();
        screen.take(Ok(before()));
        screen.take(Ok(after()));
        let key = |code| KeyEvent::new(code, KeyModifiers::NONE);

        (0..100).for_each(|_| assert_eq!(screen.press(key(KeyCode::Down)), Wish::Stay));
        let end = drawn(&mut screen, 80, 10);
        (0..100).for_each(|_| assert_eq!(screen.press(key(KeyCode::Up)), Wish::Stay));
        let start = drawn(&mut screen, 80, 10);

        assert!(end.contains("ejected, back in") && !end.contains("more below"), "{end}");
        assert!(start.contains("ROUTE") && start.contains("more below"), "{start}");
    }

    #[test]
    fn q_escape_and_control_c_quit() {
        for key in [
            KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE),
            KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE),
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            assert_eq!(screen().press(key), Wish::Quit);
        }
        assert_eq!(screen().press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::NONE)), Wish::Stay);
    }
}
