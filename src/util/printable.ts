// Text that keeps to its line: what would break it, move the cursor or reverse the text is escaped.
// Quoting and shortening are untrusted.ts's.

// C0 and C1 controls, line and paragraph separators, marks of direction, the byte order mark.
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069\ufeff]/g

/** The text with every character escaped, as JSON does, that is no visible part of its line. */
export const printable = (text: string): string =>
  text.replace(UNPRINTABLE, (character) => {
    const escaped = JSON.stringify(character).slice(1, -1)
    if (escaped !== character) return escaped
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`
  })
