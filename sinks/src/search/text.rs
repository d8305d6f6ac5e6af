//! Texts as people type them: the words of a query, and where a found text has them.

use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// A word as it is compared: without case, accents and width. As `search_text` of migration 0020 does it.
#[must_use]
pub fn folded(word: &str) -> String {
    let mut folded = String::with_capacity(word.len());
    for letter in word.nfkd().filter(|letter| !is_accent(*letter)).nfkc().flat_map(char::to_lowercase) {
        match plain(letter) {
            Some(letters) => folded.push_str(letters),
            None => folded.push(letter),
        }
    }
    folded
}

/// What stands on a letter of Latin, Greek or Cyrillic. The vowels of other scripts are marks too, and stay.
const fn is_accent(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}')
}

/// Letters of Latin alphabets that are none with an accent, as people write them who lack them.
const fn plain(letter: char) -> Option<&'static str> {
    Some(match letter {
        'æ' => "ae",
        'đ' | 'ð' => "d",
        'ħ' => "h",
        'ı' => "i",
        'ł' => "l",
        'ŋ' => "n",
        'ø' => "o",
        'œ' => "oe",
        'ĸ' => "q",
        'ß' => "ss",
        'ŧ' => "t",
        'þ' => "th",
        _ => return None,
    })
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || is_combining_mark(letter)
}

/// The words of a text, folded, in their order.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let is_word = |word: &&str| word.chars().any(char::is_alphanumeric);
    text.split(|letter| !is_of_word(letter)).filter(is_word).map(folded).collect()
}

/// Whether a word is of a script that sets no spaces: it may be many words.
#[must_use]
pub fn is_compact(word: &str) -> bool {
    word.chars().any(|letter| {
        matches!(letter,
            '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
    })
}

/// Every two letters of a word that stand side by side.
#[must_use]
pub fn parts(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    letters.windows(2).map(|two| two.iter().collect()).collect()
}

/// How many mistakes a word of a query may have: none where it has a digit, since another size or code is another thing.
pub(super) fn mistakes_max(word: &str) -> usize {
    match word.chars().count() {
        _ if word.chars().any(char::is_numeric) => 0,
        0..=2 => 0,
        3..=7 => 1,
        _ => 2,
    }
}

/// A found text with the words that were asked for between `<em>` and `</em>`, the rest safe to stand in HTML; `None` where it
/// has none of them. A word is marked for its misspelling only where the text has it in no better form.
#[must_use]
pub fn highlighted(text: &str, asked: &[String]) -> Option<String> {
    let own = words(text);
    let begins = |word: &str, asked: &str| word.starts_with(asked);
    let resembles = |word: &str, asked: &str| {
        let most = mistakes_max(asked);
        most > 0
            && word.chars().count().abs_diff(asked.chars().count()) <= most
            && strsim::osa_distance(word, asked) <= most
    };
    let is_asked = |word: &str| {
        asked
            .iter()
            .any(|one| begins(word, one) || (!own.iter().any(|better| begins(better, one)) && resembles(word, one)))
    };
    let (mut marked, mut any, mut rest) = (String::new(), false, text);
    while !rest.is_empty() {
        let is_word = rest.chars().next().is_some_and(is_of_word);
        let end = rest.find(|letter| is_of_word(letter) != is_word).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        if is_word && is_asked(&folded(piece)) {
            any = true;
            marked.push_str("<em>");
            marked.push_str(piece);
            marked.push_str("</em>");
        } else {
            piece.chars().for_each(|letter| push_escaped(&mut marked, letter));
        }
        rest = after;
    }
    any.then_some(marked)
}

fn push_escaped(text: &mut String, letter: char) {
    match letter {
        '&' => text.push_str("&amp;"),
        '<' => text.push_str("&lt;"),
        '>' => text.push_str("&gt;"),
        '"' => text.push_str("&quot;"),
        '\'' => text.push_str("&#39;"),
        other => text.push(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_as_people_type_them() {
        assert_eq!(words("Crème ŒUF, Straße; Łódź ｗｉｄｅ"), ["creme", "oeuf", "strasse", "lodz", "wide"]);
        // Vowels of Devanagari are marks, and no accents.
        assert_eq!(words("कुर्सी"), ["कुर्सी"]);
        assert!(words("\u{301} \u{2764}\u{fe0f} --").is_empty());
    }

    #[test]
    fn what_is_asked_for_is_marked_and_a_hostile_name_stays_text() {
        let marked = |text: &str, asked: &str| highlighted(text, &words(asked));
        assert_eq!(marked("WHITE Hanging Heart", "heart whit").unwrap(), "<em>WHITE</em> Hanging <em>Heart</em>");
        assert_eq!(marked("Crème brûlée set", "creme brulée").unwrap(), "<em>Crème</em> <em>brûlée</em> set");
        assert_eq!(marked("Heart lantern", "haert").unwrap(), "<em>Heart</em> lantern");
        // A misspelling is not marked beside the word itself.
        assert_eq!(marked("Heart and hearth", "hearth").unwrap(), "Heart and <em>hearth</em>");
        assert_eq!(marked("<img src=x> & 'mug'", "mug").unwrap(), "&lt;img src=x&gt; &amp; &#39;<em>mug</em>&#39;");
        assert_eq!(marked("15cm plate", "16cm"), None);
        assert_eq!(marked("Ёлка зелёная", "елка").unwrap(), "<em>Ёлка</em> зелёная");
        // A variation selector alone is no word, which every word would begin with.
        assert_eq!(marked("Tea mug", "\u{2764}\u{fe0f} mug").unwrap(), "Tea <em>mug</em>");
    }
}
