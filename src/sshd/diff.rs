//! A unified diff of one change. Our changes are a few lines in one place, so one hunk is all there ever is.

/// Unchanged lines shown around a change, as diff(1) -u does.
const CONTEXT: usize = 3;

/// Old and new text of `path` as a unified diff; a missing side is `/dev/null`. Empty when nothing changes.
#[must_use]
pub fn unified(path: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> String {
    if before == after {
        return String::new();
    }
    let old = lines(before.unwrap_or_default());
    let new = lines(after.unwrap_or_default());
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let room = old.len().min(new.len()).saturating_sub(head);
    let tail = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(room)
        .take_while(|(a, b)| a == b)
        .count();
    let first = head.saturating_sub(CONTEXT);
    let old_end = old.len().saturating_sub(tail);
    let new_end = new.len().saturating_sub(tail);
    let shown_tail = tail.min(CONTEXT);

    let name = |side: Option<&[u8]>, letter: &str| {
        side.map_or_else(|| "/dev/null".to_owned(), |_| format!("{letter}{path}"))
    };
    let mut out = format!("--- {}\n+++ {}\n", name(before, "a"), name(after, "b"));
    let range = |end: usize| {
        let count = end.saturating_add(shown_tail).saturating_sub(first);
        let start = if count == 0 {
            first
        } else {
            first.saturating_add(1)
        };
        format!("{start},{count}")
    };
    if !(old.is_empty() && new.is_empty()) {
        out.push_str(&format!("@@ -{} +{} @@\n", range(old_end), range(new_end)));
    }
    let mut put = |sign: char, list: &[&[u8]], from: usize, to: usize| {
        for line in list.get(from..to).unwrap_or_default() {
            out.push(sign);
            out.push_str(&String::from_utf8_lossy(line));
            if !line.ends_with(b"\n") {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    put(' ', &old, first, head);
    put('-', &old, head, old_end);
    put('+', &new, head, new_end);
    put(' ', &old, old_end, old_end.saturating_add(shown_tail));
    out
}

fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insertion_is_one_hunk() {
        let diff = unified("/f", Some(b"1\n2\n3\n4\n5\n"), Some(b"1\n2\n3\n4\nx\n5\n"));
        assert_eq!(diff, "--- a/f\n+++ b/f\n@@ -2,4 +2,5 @@\n 2\n 3\n 4\n+x\n 5\n");
    }

    #[test]
    fn new_file_comes_from_nowhere() {
        assert_eq!(
            unified("/f", None, Some(b"1\n")),
            "--- /dev/null\n+++ b/f\n@@ -0,0 +1,1 @@\n+1\n"
        );
        assert_eq!(
            unified("/f", Some(b"1"), None),
            "--- a/f\n+++ /dev/null\n@@ -1,1 +0,0 @@\n-1\n\\ No newline at end of file\n"
        );
    }

    #[test]
    fn repeated_lines_are_counted_once() {
        assert_eq!(
            unified("/f", Some(b"a\na\n"), Some(b"a\na\na\n")),
            "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n a\n a\n+a\n"
        );
    }
}
