/** Stands in for `node:path`. Nothing on the page has a path. */
export default {};
