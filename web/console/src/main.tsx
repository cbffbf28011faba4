import "duolink-style/style.css";
import "uplot/dist/uPlot.min.css";
import "./console.css";
import { render } from "preact";
import { Credentials, tabStorage } from "./api/credentials.js";
import { App } from "./app.js";
import { Operations } from "./operations.js";

const operations = new Operations(new Credentials(tabStorage()));
operations.start();
// In a task of its own: together with the modules' evaluation it would be the longest of all.
setTimeout(() => render(<App operations={operations} />, document.body));
