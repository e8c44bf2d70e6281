//! What the finishing thread says, kept for whoever follows it: a plan is many lines in one moment, and each is to arrive.

use std::collections::VecDeque;

/// Lines kept. A plan has some hundred; of more the last ones tell how it ended.
const KEPT: usize = 1000;

/// Lines in order, the oldest dropped when there are too many.
#[derive(Debug, Clone, Default)]
pub struct Said {
    lines: VecDeque<String>,
    dropped: usize,
}

impl Said {
    /// Adds a line.
    pub fn push(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
            self.dropped += 1;
        }
        self.lines.push_back(line);
    }

    /// What was said since a follower had heard `heard` lines; then it has heard all.
    pub fn since(&self, heard: &mut usize) -> Vec<String> {
        let news = self.lines.iter().skip(heard.saturating_sub(self.dropped)).cloned().collect();
        *heard = self.dropped + self.lines.len();
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_heard_once_and_the_oldest_give_way() {
        let (mut said, mut heard) = (Said::default(), 0);
        let say = |said: &mut Said, lines: std::ops::Range<usize>| {
            lines.for_each(|line| said.push(line.to_string()));
        };
        assert!(said.since(&mut heard).is_empty());
        say(&mut said, 0..2);
        assert_eq!(said.since(&mut heard), ["0", "1"]);
        assert!(said.since(&mut heard).is_empty());
        say(&mut said, 2..5);
        assert_eq!(said.since(&mut heard), ["2", "3", "4"]);
        say(&mut said, 5..KEPT + 5);
        let news = said.since(&mut heard);
        assert_eq!((news.len(), news[0].as_str(), news.last().unwrap().as_str()), (KEPT, "5", "1004"));
        say(&mut said, KEPT + 5..2 * KEPT + 15);
        assert_eq!(said.since(&mut heard)[0], "1015", "ten that nobody heard in time");
        assert_eq!(said.since(&mut 0).len(), KEPT, "another follower");
    }
}
