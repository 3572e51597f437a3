// Sorts a table by a column at a click on its header; a note stays under its row. Without it the tables are as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = table.tHead.rows[0].cells;
  Array.from(headers).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const falling = header.getAttribute("aria-sort") === "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", { numeric: true }) : x - y;
        return falling ? -order : order;
      };
      const body = table.tBodies[0], rows = [];
      for (const row of body.rows) {
        if (row.classList.contains("note")) rows.at(-1).push(row);
        else rows.push([row]);
      }
      body.append(...rows.sort((a, b) => compare(a[0], b[0])).flat());
    });
  });
}
