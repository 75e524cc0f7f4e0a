//! Directives that say nothing about what the program does.

use super::{ParseError, Parser, literals::integer};
use crate::ptx::lexer::TokenKind;

impl Parser<'_> {
    /// `.pragma "nounroll";`. One says something about the program: `"used_bytes_mask 4095"` before a
    /// load that the compiler made wider than what is used of it.
    pub(super) fn pragma(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        loop {
            if let Some(mask) = self.cursor.string()?.strip_prefix("used_bytes_mask") {
                let mask = integer(mask.trim()).and_then(|mask| u16::try_from(mask).ok());
                let Some(mask) = mask.filter(|&mask| mask != 0) else {
                    return self.cursor.error_before("`used_bytes_mask` is no mask of 16 bytes");
                };
                self.used_bytes = Some(mask);
            }
            if !self.cursor.accept(b',') {
                return self.cursor.expect(b';');
            }
        }
    }

    /// Debug information: `.section .debug_str { ... }`.
    pub(super) fn skip_section(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        if self.cursor.peek_dotted().is_none() {
            return self.cursor.unexpected("a section name");
        }
        self.cursor.advance();
        self.cursor.expect(b'{')?;
        while !self.cursor.accept(b'}') {
            if matches!(self.cursor.peek().kind, TokenKind::End | TokenKind::Mark(b'{')) {
                return self.cursor.unexpected("the end of the section");
            }
            self.cursor.advance();
        }
        Ok(())
    }
}
